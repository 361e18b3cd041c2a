"""Objectives for networks whose answers hold for every image near by, with a certificate."""
