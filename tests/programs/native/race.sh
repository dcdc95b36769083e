#!/usr/bin/env bash
# Tests of threads under ThreadSanitizer: `PYTHON=/path/to/python3.13t make race`, which gives this the tests.
# It needs a CPython that was configured with --disable-gil --with-thread-sanitizer, which takes ten minutes to
# build, and pytest beside it. Each report fails the run, but for what race.supp names; the first one in a process
# also fails the test that runs just then, which finds the file of the reports open.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=$1
shift
cc=${CC:-gcc}
"$python" -c '
import sys, sysconfig
if "--with-thread-sanitizer" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
    sys.exit(f"{sys.executable} is not built with --disable-gil --with-thread-sanitizer")'
folder=$(mktemp -d)
trap 'cat "$folder"/report.* 2>/dev/null || true; rm -rf "$folder"' EXIT

cp -r src/shmchannel "$folder/shmchannel"
rm -f "$folder"/shmchannel/_native*.so
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
# ThreadSanitizer does not know fences (-Wno-tsan); see sanitize.sh.
"$cc" -std=c11 -O1 -g -Wall -Wextra -Wno-missing-field-initializers -Wno-tsan -fsanitize=thread -shared -fPIC \
  -I"$include" src/shmchannel/native/module.c -o "$folder/shmchannel/_native$suffix"
export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH} PYTHON_GIL=0 ENGINES=c DEADLINE=600 RACES=${RACES:-100}
export TSAN_OPTIONS="exitcode=66 history_size=7 die_after_fork=0 log_path=$folder/report"
TSAN_OPTIONS+=" suppressions=$PWD/tests/programs/native/race.supp"
# Compiling is slow under it, so each module is compiled once.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$folder/compiled
"$python" -c "
import shmchannel
assert shmchannel.native and shmchannel.__file__.startswith('$folder'), shmchannel.__file__"
"$python" -m pytest -q -p no:cacheprovider -o faulthandler_timeout=0 "$@"
