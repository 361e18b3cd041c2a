// Convolutions on CPUs that XLA's own loops serve badly, called through XLA's foreign function interface (native.py).
//
// Images B H W C and kernels I J D N in float32, N outputs of groups of D channels; D = N / C = 1 is a depthwise
// convolution. A task is a strip of rows of one image and a few channels: it copies what it reads into a padded
// buffer that fits the cache, and sums over taps for up to 8 pixels and one vector of outputs at a time. In a depthwise
// convolution the vector is of channels, otherwise one channel of the image meets a vector of outputs of its group.
//
// Only C's library is used, so that any compiler for C++ builds this file, without a library of C++ at run time. The
// widest vectors of the processor are chosen while it runs; there is one source, on the compiler's vector types.

#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t kBuffer = 1 << 16;  // floats of a padded buffer, 256 KiB
constexpr int64_t kLine = 64;         // bytes of a line of the cache
constexpr int64_t kBlock = 16;        // channels that a task copies at least, a line

template <int Lanes>
struct Vector {
  typedef float Type __attribute__((vector_size(4 * Lanes), aligned(4), may_alias));
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// What `native.py` passes as 'geometry', in this order, for rows and columns each.
struct Geometry {
  int64_t stride[2], dilation[2];
  int64_t before[2];  // zeros before the image; below 0, pixels left out
  int64_t holes[2];   // distance of the image's pixels in the padded image, with zeros between
};

// One call: what is the same in all tasks, and how far they are.
struct Job {
  Geometry g;
  int64_t batch, sides[2], channels;  // of the image
  int64_t taps[2], depth, outputs;    // of the kernel
  int64_t grid[2];                    // rows and columns of the output
  const float *x, *other;             // other: the kernel, or the cotangent of the output
  float *found;

  int64_t groups, columns, rows, strips, total;  // groups and rows of a task; columns of its buffer
  void (*work)(Job *, float *);
  int64_t next, done, holders;

  int64_t span(int axis) const { return (taps[axis] - 1) * g.dilation[axis] + 1; }
  bool depthwise() const { return depth == 1 && outputs == channels; }
  int64_t width() const { return groups * depth; }  // channels of a task
};

// Copies `held` numbers, `Lanes` at a time.
template <int Lanes>
INLINE void copy(float *to, const float *from, int64_t held) {
  typedef typename Vector<Lanes>::Type V;
  int64_t c = 0;
  for (; c + Lanes <= held; c += Lanes) *(V *)(to + c) = *(const V *)(from + c);
  for (; c < held; ++c) to[c] = from[c];
}

// Copies channels [first, first + held) of a strip into the buffer, `width` wide, with zeros around and between.
template <int Lanes>
INLINE void fill(const Job &job, int64_t image, int64_t strip, int64_t count, int64_t first, int64_t held,
                 float *buffer) {
  const int64_t width = job.width(), (&holes)[2] = job.g.holes;
  const int64_t rows = (count - 1) * job.g.stride[0] + job.span(0);
  for (int64_t r = 0; r < rows; ++r) {
    float *to = buffer + r * job.columns * width;
    const int64_t place = strip * job.rows * job.g.stride[0] + r - job.g.before[0];
    const int64_t row = place / holes[0];
    const bool inside = place >= 0 && place % holes[0] == 0 && row < job.sides[0];
    if (!inside || holes[1] > 1 || held < width) memset(to, 0, sizeof(float) * job.columns * width);
    if (!inside) continue;
    const float *from = job.x + ((image * job.sides[0] + row) * job.sides[1]) * job.channels + first;
    const int64_t begin = parts(most(-job.g.before[1], 0), holes[1]);
    const int64_t end = least(job.sides[1], most(0, parts(job.columns - job.g.before[1], holes[1])));
    if (holes[1] == 1 && held == width) {
      const int64_t left = least(job.columns, most(0, begin + job.g.before[1]));
      const int64_t right = least(job.columns, most(left, end + job.g.before[1]));
      memset(to, 0, sizeof(float) * left * width);
      memset(to + right * width, 0, sizeof(float) * (job.columns - right) * width);
    }
    for (int64_t q = begin; q < end; ++q) {
      copy<Lanes>(to + (q * holes[1] + job.g.before[1]) * width, from + q * job.channels, held);
    }
  }
}

// Stores vectors, of which `held` numbers are outputs, `apart` from each other.
template <int Lanes, int Tile>
INLINE void store(const typename Vector<Lanes>::Type *sums, float *y, int64_t apart, int64_t held) {
  typedef typename Vector<Lanes>::Type V;
#pragma GCC unroll 8
  for (int t = 0; t < Tile; ++t) {
    if (held == Lanes) {
      *(V *)(y + t * apart) = sums[t];
    } else {
      memcpy(y + t * apart, &sums[t], sizeof(float) * held);
    }
  }
}

// Sums over all taps for `Tile` pixels of one row and `Lanes` outputs. x: what the first tap reads for the first pixel;
// pixel, row, column: steps in x from one output to the next, and from one tap to the next.
template <int Lanes, int Tile, bool Depthwise>
INLINE void tile(const Job &job, const float *x, int64_t pixel, int64_t row, int64_t column, const float *weights,
                 float *y, int64_t held) {
  typedef typename Vector<Lanes>::Type V;
  V sums[Tile] = {};
  for (int64_t i = 0; i < job.taps[0]; ++i) {
    for (int64_t j = 0; j < job.taps[1]; ++j) {
      const float *seen = x + i * row + j * column;
      for (int64_t d = 0; d < (Depthwise ? 1 : job.depth); ++d, weights += Lanes) {
        const V weight = *(const V *)weights;
#pragma GCC unroll 8
        for (int t = 0; t < Tile; ++t) {
          if (Depthwise) {
            sums[t] += weight * *(const V *)(seen + t * pixel);
          } else {
            sums[t] += weight * seen[t * pixel + d];
          }
        }
      }
    }
  }
  store<Lanes, Tile>(sums, y, job.outputs, held);
}

// The same for a depthwise kernel of `Columns` columns without stride and dilation: each pixel is read once a row.
template <int Lanes, int Tile, int Columns>
INLINE void dense_tile(const Job &job, const float *x, int64_t pixel, int64_t row, const float *weights, float *y,
                       int64_t held) {
  typedef typename Vector<Lanes>::Type V;
  V sums[Tile] = {};
  for (int64_t i = 0; i < job.taps[0]; ++i, x += row, weights += Columns * Lanes) {
#pragma GCC unroll 16
    for (int q = 0; q < Tile + Columns - 1; ++q) {
      const V seen = *(const V *)(x + q * pixel);
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        if (q - j >= 0 && q - j < Tile) sums[q - j] += seen * *(const V *)(weights + j * Lanes);
      }
    }
  }
  store<Lanes, Tile>(sums, y, job.outputs, held);
}

// Rows of a strip for one vector of outputs. The last tile of a row overlaps the one before it.
template <int Lanes, int Tile, int Columns, bool Depthwise>
INLINE void sweep(const Job &job, const float *buffer, int64_t count, const float *weights, float *y, int64_t held) {
  const int64_t width = job.width(), pixel = job.g.stride[1] * width;
  const int64_t row = job.g.dilation[0] * job.columns * width, column = job.g.dilation[1] * width;
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t q = 0; q < job.grid[1]; q += Tile) {
      const int64_t at = least(q, job.grid[1] - Tile);
      const float *x = buffer + p * job.g.stride[0] * job.columns * width + at * pixel;
      float *to = y + (p * job.grid[1] + at) * job.outputs;
      if (Columns) {
        dense_tile<Lanes, Tile, Columns>(job, x, pixel, row, weights, to, held);
      } else {
        tile<Lanes, Tile, Depthwise>(job, x, pixel, row, column, weights, to, held);
      }
    }
  }
}

template <int Lanes, int Tile, bool Depthwise>
INLINE void sweep_taps(const Job &job, const float *buffer, int64_t count, const float *weights, float *y,
                       int64_t held) {
  const bool dense = Depthwise && job.g.stride[1] == 1 && job.g.dilation[1] == 1;
  constexpr int Three = Depthwise ? 3 : 0, Seven = Depthwise ? 7 : 0;
  if (dense && job.taps[1] == 3) return sweep<Lanes, Tile, Three, Depthwise>(job, buffer, count, weights, y, held);
  if (dense && job.taps[1] == 7) return sweep<Lanes, Tile, Seven, Depthwise>(job, buffer, count, weights, y, held);
  sweep<Lanes, Tile, 0, Depthwise>(job, buffer, count, weights, y, held);
}

template <int Lanes, bool Depthwise>
INLINE void sweep_tiles(const Job &job, const float *buffer, int64_t count, const float *weights, float *y,
                        int64_t held) {
  if (job.grid[1] % 7 == 0) return sweep_taps<Lanes, 7, Depthwise>(job, buffer, count, weights, y, held);
  if (job.grid[1] >= 8) return sweep_taps<Lanes, 8, Depthwise>(job, buffer, count, weights, y, held);
  if (job.grid[1] >= 4) return sweep<Lanes, 4, 0, Depthwise>(job, buffer, count, weights, y, held);
  sweep<Lanes, 1, 0, Depthwise>(job, buffer, count, weights, y, held);
}

// The outputs of a task, `Lanes` at a time.
template <int Lanes, bool Depthwise>
INLINE void outputs(const Job &job, const float *buffer, int64_t count, int64_t group, float *weights, float *y) {
  typedef typename Vector<Lanes>::Type V;
  const int64_t each = job.outputs / (job.channels / job.depth);
  const int64_t first = group * each, end = least(job.outputs, (group + job.groups) * each);
  const int64_t taps = job.taps[0] * job.taps[1] * job.depth;
  for (int64_t n = first; n < end; n += Lanes) {
    const int64_t held = least(Lanes, end - n);
    for (int64_t t = 0; t < taps; ++t) {
      *(V *)(weights + t * Lanes) = V{};
      copy<Lanes>(weights + t * Lanes, job.other + t * job.outputs + n, held);
    }
    const int64_t offset = Depthwise ? n - first : (n - first) / each * job.depth;
    sweep_tiles<Lanes, Depthwise>(job, buffer + offset, count, weights, y + n, held);
  }
}

int64_t buffer_size(const Job &job) {
  const int64_t pixels = job.columns * ((job.rows - 1) * job.g.stride[0] + job.span(0));
  return parts(pixels * job.width(), kBlock) * kBlock;  // what follows begins a line
}

template <int Wide>
INLINE void convolve(Job *shared, float *scratch) {
  const Job &job = *shared;
  float *weights = scratch + buffer_size(job);
  const int64_t groups = job.channels / job.depth, each = job.outputs / groups, blocks = parts(groups, job.groups);
  for (;;) {
    int64_t task = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
    if (task >= job.total) return;
    const int64_t strip = task % job.strips, block = task / job.strips % blocks, image = task / job.strips / blocks;
    const int64_t group = block * job.groups, count = least(job.rows, job.grid[0] - strip * job.rows);
    const int64_t held = least(job.groups, groups - group) * job.depth;
    float *y = job.found + (image * job.grid[0] + strip * job.rows) * job.grid[1] * job.outputs;
    if (job.depthwise()) {
      fill<Wide>(job, image, strip, count, group, held, scratch);
      outputs<Wide, true>(job, scratch, count, group, weights, y);
    } else {
      fill<4>(job, image, strip, count, group * job.depth, held, scratch);
      if (each % Wide == 0) {
        outputs<Wide, false>(job, scratch, count, group, weights, y);
      } else if (each % (Wide > 8 ? 8 : 4) == 0) {
        outputs<(Wide > 8 ? 8 : 4), false>(job, scratch, count, group, weights, y);
      } else {
        outputs<4, false>(job, scratch, count, group, weights, y);
      }
    }
    __atomic_fetch_add(&shared->done, 1, __ATOMIC_RELEASE);
  }
}

// Adds to `sums` what one row of the cotangent has for Rows x Columns taps, of which the first reads x.
template <int Lanes, int Rows, int Columns>
INLINE void tap_sums(const Job &job, const float *x, const float *dy, float *sums) {
  typedef typename Vector<Lanes>::Type V;
  const int64_t row = job.g.dilation[0] * job.columns * Lanes, column = job.g.dilation[1] * Lanes;
  V found[Rows][Columns] = {};
  for (int64_t q = 0; q < job.grid[1]; ++q, x += job.g.stride[1] * Lanes) {
    const V slope = *(const V *)(dy + q * Lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) found[i][j] += slope * *(const V *)(x + i * row + j * column);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) *(V *)(sums + (i * job.taps[1] + j) * Lanes) += found[i][j];
  }
}

template <int Lanes>
INLINE void row_sums(const Job &job, const float *x, const float *dy, float *sums) {
  const int64_t row = job.g.dilation[0] * job.columns * Lanes, column = job.g.dilation[1] * Lanes;
  for (int64_t i = 0, rows; i < job.taps[0]; i += rows) {
    rows = job.taps[1] % 3 == 0 && job.taps[1] < 7 && job.taps[0] - i >= 3 ? 3 : 1;
    for (int64_t j = 0, columns; j < job.taps[1]; j += columns) {
      const int64_t left = job.taps[1] - j;
      const float *seen = x + i * row + j * column;
      float *total = sums + (i * job.taps[1] + j) * Lanes;
      if (rows == 3) {
        columns = 3;
        tap_sums<Lanes, 3, 3>(job, seen, dy, total);
      } else if (left >= 7) {
        columns = 7;
        tap_sums<Lanes, 1, 7>(job, seen, dy, total);
      } else if (left >= 5) {
        columns = 5;
        tap_sums<Lanes, 1, 5>(job, seen, dy, total);
      } else if (left >= 3) {
        columns = 3;
        tap_sums<Lanes, 1, 3>(job, seen, dy, total);
      } else {
        columns = 1;
        tap_sums<Lanes, 1, 1>(job, seen, dy, total);
      }
    }
  }
}

// The gradient of a depthwise kernel, of each image apart: B I J C. It is summed row by row, and then over rows.
template <int Lanes>
INLINE void kernel_gradient(Job *shared, float *scratch) {
  const Job &job = *shared;
  const int64_t taps = job.taps[0] * job.taps[1], blocks = parts(job.channels, Lanes);
  float *sums = scratch + buffer_size(job), *slopes = sums + taps * Lanes;
  for (;;) {
    const int64_t task = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
    if (task >= job.total) return;
    const int64_t first = task % blocks * Lanes, image = task / blocks, held = least(Lanes, job.channels - first);
    memset(sums, 0, sizeof(float) * (taps + job.grid[1]) * Lanes);
    for (int64_t p = 0; p < job.grid[0]; ++p) {
      const int64_t strip = p / job.rows, row = p % job.rows;
      if (row == 0) fill<Lanes>(job, image, strip, least(job.rows, job.grid[0] - p), first, held, scratch);
      const float *dy = job.other + ((image * job.grid[0] + p) * job.grid[1]) * job.channels + first;
      for (int64_t q = 0; q < job.grid[1]; ++q) copy<Lanes>(slopes + q * Lanes, dy + q * job.channels, held);
      row_sums<Lanes>(job, scratch + row * job.g.stride[0] * job.columns * Lanes, slopes, sums);
    }
    for (int64_t t = 0; t < taps; ++t) {
      memcpy(job.found + (image * taps + t) * job.channels + first, sums + t * Lanes, sizeof(float) * held);
    }
    __atomic_fetch_add(&shared->done, 1, __ATOMIC_RELEASE);
  }
}

// What a processor runs: the lanes of its vectors, and the functions compiled for it.
struct Level {
  int64_t lanes;
  void (*convolve)(Job *, float *), (*kernel_gradient)(Job *, float *);
};

#define LEVEL(name, lanes, attributes)                                                                    \
  attributes void convolve_##name(Job *job, float *scratch) { convolve<lanes>(job, scratch); }            \
  attributes void kernel_gradient_##name(Job *job, float *scratch) { kernel_gradient<lanes>(job, scratch); } \
  constexpr Level name = {lanes, convolve_##name, kernel_gradient_##name}

LEVEL(narrow, 4, );
#ifdef __x86_64__
LEVEL(avx2, 8, __attribute__((target("avx2,fma"))));
LEVEL(avx512, 16, __attribute__((target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw"))));
#endif

Level level() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw")) {
    return avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
  return narrow;
}

void release(Job *job) {
  if (__atomic_sub_fetch(&job->holders, 1, __ATOMIC_ACQ_REL) == 0) free(job);
}

void work(Job *job) {
  if (__atomic_load_n(&job->next, __ATOMIC_RELAXED) >= job->total) return;
  const int64_t most_lanes = 16, taps = job->taps[0] * job->taps[1] * job->depth;
  const int64_t floats = buffer_size(*job) + (taps + job->grid[1]) * most_lanes;
  float *scratch = (float *)aligned_alloc(kLine, parts(sizeof(float) * floats, kLine) * kLine);
  job->work(job, scratch);
  free(scratch);
}

void help(void *job) {
  work((Job *)job);
  release((Job *)job);
}

void ignore(const XLA_FFI_Api *api, XLA_FFI_Error *error) {
  XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&args);
}

// Runs all tasks on the caller and the threads that XLA lends. The caller waits only for tasks that have begun: helpers
// that come later find none, and the last one of all frees the job.
void run(Job *job, const XLA_FFI_Api *api, XLA_FFI_ExecutionContext *context, int64_t threads) {
  const int64_t helpers = least(job->total, threads) - 1;
  job->holders = 1 + most(0, helpers);
  for (int64_t h = 0; h < helpers; ++h) {
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, context, help, job};
    if (XLA_FFI_Error *error = api->XLA_FFI_ThreadPool_Schedule(&args)) {
      ignore(api, error);
      release(job);
    }
  }
  work(job);
  while (__atomic_load_n(&job->done, __ATOMIC_ACQUIRE) < job->total) sched_yield();
  release(job);
}

int64_t threads_of(const XLA_FFI_Api *api, XLA_FFI_ExecutionContext *context) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, context,
                                             &threads};
  if (XLA_FFI_Error *error = api->XLA_FFI_ThreadPool_NumThreads(&args)) {
    ignore(api, error);
    return 1;
  }
  return most(1, threads);
}

// Chooses the rows of a task so that its buffer fits the cache, and there are tasks for all threads.
void split(Job *job, int64_t blocks, int64_t threads) {
  job->columns = (job->grid[1] - 1) * job->g.stride[1] + job->span(1);
  const int64_t fit = kBuffer / (job->columns * job->width());
  job->rows = least(job->grid[0], most(1, (fit - job->span(0)) / job->g.stride[0] + 1));
  const int64_t wanted = least(parts(4 * threads, job->batch * blocks), parts(job->grid[0], 8));
  job->strips = most(parts(job->grid[0], job->rows), wanted);
  job->rows = parts(job->grid[0], job->strips);
  job->strips = parts(job->grid[0], job->rows);
}

// Answers XLA's question for the version of the interface; returns whether there was one.
bool asked(XLA_FFI_CallFrame *frame) {
  XLA_FFI_Extension_Base *extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

Job *job_of(XLA_FFI_CallFrame *frame, int64_t **other, int64_t **found) {
  Job *job = (Job *)calloc(1, sizeof(Job));
  auto *x = (XLA_FFI_Buffer *)frame->args.args[0], *y = (XLA_FFI_Buffer *)frame->args.args[1];
  auto *result = (XLA_FFI_Buffer *)frame->rets.rets[0];
  memcpy(&job->g, ((XLA_FFI_Array *)frame->attrs.attrs[0])->data, sizeof(Geometry));
  job->batch = x->dims[0], job->sides[0] = x->dims[1], job->sides[1] = x->dims[2], job->channels = x->dims[3];
  job->x = (const float *)x->data, job->other = (const float *)y->data, job->found = (float *)result->data;
  *other = y->dims, *found = result->dims;
  return job;
}

}  // namespace

// (x, kernel) -> y
extern "C" XLA_FFI_Error *longview_convolve(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return nullptr;
  int64_t *kernel, *y;
  Job *job = job_of(frame, &kernel, &y);
  job->taps[0] = kernel[0], job->taps[1] = kernel[1], job->depth = kernel[2], job->outputs = kernel[3];
  job->grid[0] = y[1], job->grid[1] = y[2];
  const Level with = level();
  const int64_t groups = job->channels / job->depth, threads = threads_of(frame->api, frame->ctx);
  // With few rows of taps memory binds: pixels of more than one line are read and written faster.
  const int64_t together = job->taps[0] <= 3 ? most(with.lanes, 4 * kBlock) : with.lanes;
  job->groups = job->depthwise() ? together : least(groups, parts(kBlock, job->depth));
  const int64_t blocks = parts(groups, job->groups);
  split(job, blocks, threads);
  job->total = job->batch * blocks * job->strips;
  job->work = with.convolve;
  run(job, frame->api, frame->ctx, threads);
  return nullptr;
}

// (x, dy) -> the gradient of a depthwise kernel, of each image apart
extern "C" XLA_FFI_Error *longview_kernel_gradient(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return nullptr;
  int64_t *dy, *kernel;
  Job *job = job_of(frame, &dy, &kernel);
  job->taps[0] = kernel[1], job->taps[1] = kernel[2], job->depth = 1, job->outputs = job->channels;
  job->grid[0] = dy[1], job->grid[1] = dy[2];
  const Level with = level();
  job->groups = with.lanes;
  split(job, 1, 1);
  job->total = job->batch * parts(job->channels, with.lanes);
  job->work = with.kernel_gradient;
  run(job, frame->api, frame->ctx, threads_of(frame->api, frame->ctx));
  return nullptr;
}
