#!/bin/sh
# Builds the addon (fairlead.node) and the CNI shim (fairlead-cni) into .cache/native/, when their sources, the
# flags or Node's headers have changed. Safe to run twice at the same time.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")
out=$root/.cache/native
cc=${CC:-gcc}

case $(uname -m) in
  x86_64) arch=x64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) echo "native: $(uname -m) is not supported (x86_64 and aarch64 are)" >&2; exit 1 ;;
esac

headers=$root/node_modules/node-linux-$arch/include/node
if [ ! -f "$headers/node_api.h" ]; then
  echo "native: no Node headers in $headers; run \`npm install\` first" >&2
  exit 1
fi

common='-O2 -std=gnu11 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes'
addon="$common -fPIC -shared -fvisibility=hidden -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
  -pthread -Wl,-z,relro,-z,now,-z,noexecstack"
# No libc: nothing may be called that the compiler would expect there.
shim="$common -Os -ffreestanding -fno-builtin -fno-stack-protector -fno-pic -fno-asynchronous-unwind-tables
  -fno-tree-loop-distribute-patterns -fomit-frame-pointer -ffunction-sections -static -nostdlib -no-pie
  -Wl,--gc-sections,--build-id=none,-z,noseparate-code,-z,noexecstack,-s"

stamp=$({
  echo "$arch"
  cat "$here"/build.sh "$here"/*.c "$here"/*.h "$headers/node_version.h"
} | sha256sum | cut -d' ' -f1)

if [ -f "$out/fairlead.node" ] && [ -x "$out/fairlead-cni" ] && [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
  echo 'native: up to date'
  exit 0
fi

if ! command -v "$cc" >/dev/null 2>&1; then
  echo "native: no C compiler ($cc); install one with \`apt-get install gcc libc6-dev\`" >&2
  exit 1
fi

work=$out/build.$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

sources=
for file in "$here"/*.c; do
  [ "$file" = "$here/shim.c" ] || sources="$sources $file"
done
# Word splitting of the flags is meant; -I is quoted apart.
# shellcheck disable=SC2086
"$cc" $addon -I"$headers" -o "$work/fairlead.node" $sources -lm
# shellcheck disable=SC2086
"$cc" $shim -o "$work/fairlead-cni" "$here/shim.c"
echo "$stamp" >"$work/stamp"

# Each output appears whole, the stamp last.
mv -f "$work/fairlead.node" "$out/fairlead.node"
mv -f "$work/fairlead-cni" "$out/fairlead-cni"
mv -f "$work/stamp" "$out/stamp"
echo "native: built fairlead.node ($(wc -c <"$out/fairlead.node") bytes) and fairlead-cni ($(wc -c <"$out/fairlead-cni") bytes)"
