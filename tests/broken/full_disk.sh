#!/bin/sh
# A build on a disk of its own that fills up half way, then the same build with room again.
# usage: full_disk.sh DISK_FOLDER PYTHON CHECKPOINT TEXTS; prints both exit codes.
set -u
disk=$1 python=$2 checkpoint=$3 texts=$4
mount -t tmpfs -o size=64m tmpfs "$disk" || exit 99

build() {
    "$python" -m phiforge build "$checkpoint" --target cpu-x64 --output "$disk/out" --texts "$texts" --quiet
}

# Fill the disk once the plan was found to fit and the quantizer has begun.
(
    until ls "$disk"/out/store/unfinished/*/events.jsonl >/dev/null 2>&1; do sleep 0.02; done
    head -c 100000000 /dev/zero > "$disk/filler" 2>/dev/null
) &
build
echo "first: $?"
wait
find "$disk/out" -name '*.ortpackage' -o -name '.*.partial' | sed 's/^/left: /'
rm "$disk/filler"
build > /dev/null
echo "second: $?"
