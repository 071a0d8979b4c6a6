#!/bin/sh
# Compiles what is loaded into tritonserver before the C library: build.sh TRITON_HOME
set -eu
if ! command -v cc >/dev/null; then
    echo "no C compiler: as root, apt-get install gcc libc6-dev" >&2
    exit 1
fi
mkdir -p "$1/preload"
for library in close_connections gather; do
    cc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$1/preload/$library.so" "$(dirname "$0")/$library.c" -pthread -ldl
done
