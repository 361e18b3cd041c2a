"""Turns the command line into a config, and mistakes in it into one sentence."""

import ast
import contextlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from longview.runtime import renames
from longview.runtime.resolve import ConfigError
from longview.words import nearest


class _Value(flags.ArgumentParser):
    """Reads a number, a tuple, a string."""

    syntactic_help = 'a Python value'

    def parse(self, argument: Any) -> Any:
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            return argument


# None does not say what may replace it.
config_flags.register_flag_parser_for_type(type(None), _Value())

# Of the checkout, or of the installed package: where configs/ stands.
_ROOT = pathlib.Path(__file__).parents[1]


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses `argv` into `values` as absl does.

    Raises:
        ConfigError: a flag, file, preset or key that does not exist, or a value of another type; the
            nearest right one is named.
    """
    argv = _with_our_configs(argv)
    try:
        rest = values(list(argv))
        _touch_config(values)
        return rest
    except (AttributeError, KeyError) as error:
        with contextlib.suppress(AttributeError, KeyError, flags.Error):
            raise ConfigError(_unknown_key(argv) or sentence(error)) from error
        raise ConfigError(f'the config file cannot be used: {sentence(error)}.') from error
    except (flags.Error, OSError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(sentence(error)) from error


def _with_our_configs(argv: Sequence[str]) -> list[str]:
    """Points each ``--config FILE:PRESET`` at the file that `_our_config` finds."""
    found = list(argv)
    for n, argument in enumerate(argv):
        flag = re.fullmatch(r'--?config(=.*)?', argument)
        value = n + (argument in ('--config', '-config'))
        if flag is None or value == len(argv):
            continue
        before, _, path = ('', '', argv[value]) if value > n else argument.partition('=')
        found[value] = f'{before}={_our_config(path)}' if before else _our_config(path)
    return found


def _our_config(path: str) -> str:
    """Returns where the file of `path`, FILE:PRESET, is.

    A file that is not there is looked for under its present name (renames.py), and then among the configs that the
    package brings along.
    """
    folder = path.partition(':')[0]
    if pathlib.Path(folder).is_dir():
        raise ConfigError(
            f'--config is {folder}, a folder: name a file in it, as in configs/vig_s.py or configs/vig_s.py:digits.'
        )
    if _there(path):
        return path
    path = renames.config_file(path)
    shipped = path.startswith('configs/') and not _there(path) and _there(str(_ROOT / path))
    return str(_ROOT / path) if shipped else path


def _there(path: str) -> bool:
    return pathlib.Path(path.partition(':')[0]).exists()


def _touch_config(values: flags.FlagValues) -> None:
    """Reads the config, because a file that is missing raises only when its config is used."""
    config = values['config'].value
    if config is not None and not hasattr(config, 'to_dict'):
        raise ConfigError('--config names no config: its get_config() must return an ml_collections.ConfigDict.')


def sentence(error: BaseException) -> str:
    """The message of an error on one line; of a traceback inside it, its last line."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        text = re.sub(r'^\w+(\.\w+)*(Error|Exception): ', '', text.strip().splitlines()[-1])
    if 'Failed loading config file' in text:
        text = f'the config cannot be read: {text.strip().splitlines()[-1].strip()}.'
    return ' '.join(text.split()) or type(error).__name__


def _unknown_key(argv: Sequence[str]) -> str | None:
    """Which ``--config.a.b=...`` names a key that the config has not, if one does."""
    config = _config_without_overrides(argv)
    for argument in argv[1:]:
        match = re.match(r'--?config\.([^=]+)', argument)
        node, path = config, 'config'
        for key in re.findall(r'[^.\[\]]+', match.group(1)) if match else ():
            if isinstance(node, (list, tuple)) and key.isdecimal() and int(key) < len(node):
                node, path = node[int(key)], f'{path}[{key}]'
                continue
            if not hasattr(node, 'keys') or key not in node:
                known = list(node.keys()) if hasattr(node, 'keys') else []
                return f'{argument.split("=")[0]}: {path} has no {key!r}{nearest(key, known)}'
            node, path = node[key], f'{path}.{key}'
    return None


def _config_without_overrides(argv: Sequence[str]) -> Any:
    values = flags.FlagValues()
    # By default it would take the overrides from the command line, the wrong one among them.
    config_flags.DEFINE_config_file('config', None, flag_values=values, sys_argv=[''])
    files = [
        a for before, a in zip(['', *argv], argv) if re.match(r'--?config=', a) or before in ('--config', '-config')
    ]
    values(['', *(f if f.startswith('-') else f'--config={f}' for f in files)])
    return values['config'].value
