#!/usr/bin/env bash
# beside.sh PATIENT EAGER: run two commands at once, the first one with what the second leaves of the
# processors, and fail if one of them does. The cluster's tests wait for pods most of the time, the others never.
# The first one's output comes whole, after the second's.
set -uo pipefail
said=$(mktemp)
nice -n 10 bash -c "$1" >"$said" 2>&1 &
patient=$!
trap 'kill "$patient" 2>/dev/null; rm -f "$said"' EXIT
trap 'exit 130' INT TERM
bash -c "$2"
eager_status=$?
wait "$patient"
patient_status=$?
cat "$said"
exit $((eager_status || patient_status))
