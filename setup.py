"""Builds the optional C core; everything else is in pyproject.toml.

SHMCHANNEL_BUILD_NATIVE=1: without it the build fails; =0: none is built; else it is built where that works.
"""

import os
from glob import glob

from setuptools import Extension, setup

wanted = os.environ.get("SHMCHANNEL_BUILD_NATIVE", "")
if wanted not in ("", "0", "1"):
    raise SystemExit(f"SHMCHANNEL_BUILD_NATIVE is 0, 1 or not set, not {wanted!r}")

native = Extension(
    "shmchannel._native",
    sources=["src/shmchannel/native/module.c"],
    depends=glob("src/shmchannel/native/*.h"),
    extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-g0"],
    optional=wanted != "1",
)

setup(ext_modules=[] if wanted == "0" else [native])
