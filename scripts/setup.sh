#!/bin/sh
# Makes this checkout ready to run: Debian packages, npm packages (with the pinned Node among them), the native
# parts. `npm run demo`, `npm test` and `npm run bench` call it first; what is done already is not done again.
#
# usage: sh scripts/setup.sh [test|bench]
#   test: also what only the tests need; bench: also the peers that the benchmarks compare with
set -eu
cd "$(dirname "$0")/.."
# Nothing here asks anything, and stdin may be closed.
exec </dev/null

# nftables: nft, which sees with other eyes what we programmed; iproute2: namespaces and links of tests and clusters;
# etcd: the second lease store; gcc libc6-dev: the addon and the CNI shim. util-linux is in every Debian.
packages='nftables iproute2 etcd-server etcd-client gcc libc6-dev'
# The reference plugins, which call iptables; what measures and probes ways between nodes.
bench_packages='containernetworking-plugins iptables iperf3 iputils-ping'
# sysctl, to break things with; iptables, one of the proxy's backends; openssl, for certificates; container runtimes
# that call the plugin, and a root filesystem for their containers; firewalld with a bus to speak to it; and an independent client of the API server, where
# there is none of another make.
test_packages='procps iptables openssl podman containerd crun runc busybox-static firewalld dbus'
command -v kubectl >/dev/null || test_packages="$test_packages kubernetes-client"
node_major_min=20

say() { echo "setup: $*"; }
die() {
  echo "setup: error: $1" >&2
  shift
  for line in "$@"; do echo "setup:   $line" >&2; done
  exit 1
}

case "${1-}" in
  '') ;;
  test) packages="$packages $test_packages" ;;
  bench) packages="$packages $bench_packages" ;;
  *) die "unknown argument '$1'" 'usage: sh scripts/setup.sh [test|bench]' ;;
esac

# npm puts node_modules/.bin first; while npm replaces that folder it must not run from it.
outer_path=
old_ifs=$IFS
IFS=:
for entry in $PATH; do
  case "$entry" in */node_modules/.bin | */node-gyp-bin) ;; *) outer_path="${outer_path:+$outer_path:}$entry" ;; esac
done
IFS=$old_ifs
PATH="$outer_path:/usr/sbin:/sbin"
export PATH

check_machine() {
  [ "$(uname -s)" = Linux ] || die "Fairlead needs Linux; this is $(uname -s)"
  case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) die "no Node for $(uname -m) in package.json" 'supported: x86_64, aarch64' ;;
  esac
  [ "$(id -u)" = 0 ] || die 'root is needed: network namespaces, netlink, apt' 'run it again as root, for instance with sudo'
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die 'apt was not found' 'the set-up is made for Debian 12 and its relatives'
  unshare --net true 2>/dev/null ||
    die 'network namespaces cannot be made here' 'in a container: start it with --privileged (CAP_SYS_ADMIN, CAP_NET_ADMIN)'
}

missing_packages() {
  installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' $packages 2>/dev/null || true) "
  for package in $packages; do
    case "$installed" in *" installed:$package "*) ;; *) printf '%s ' "$package" ;; esac
  done
}

# The lock is not handed on: a service that a package starts would hold it for ever.
apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" 9>&-
}

# A machine without a policy of its own gets one meanwhile: etcd is a tool here, not a service to be started.
install_packages() {
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  log=.cache/setup-apt.log
  try_packages "$@" >"$log" 2>&1 || { sleep 3 && try_packages "$@" >"$log" 2>&1; } || {
    tail -n 15 "$log" >&2
    die 'apt-get could not install the packages above' "by hand: apt-get update && apt-get install $*" \
      "the whole log: $log"
  }
  # Nor is it to guard the machine from its next start on.
  case " $* " in *' firewalld '*) systemctl --quiet disable firewalld >>"$log" 2>&1 || true ;; esac
}

# An index that cannot be fetched (somebody's third repository) matters only if the packages then are not there.
try_packages() {
  apt update || true
  apt install --no-install-recommends "$@"
}

check_node() {
  command -v node >/dev/null && command -v npm >/dev/null ||
    die 'node and npm were not found' "install Node $node_major_min or later: https://nodejs.org/en/download" \
      "(Debian 12's own package nodejs is too old)"
  version=$(node --version)
  major=${version#v}
  [ "${major%%.*}" -ge "$node_major_min" ] ||
    die "Node $version is too old to start with" \
      "install Node $node_major_min or later: https://nodejs.org/en/download" \
      '(Fairlead itself then runs on the Node that its package-lock.json pins)'
}

# A copy of the lock file, written last, says that the packages are complete.
stamp=node_modules/.fairlead-installed
npm_packages_current() { [ -x node_modules/.bin/node ] && cmp -s package-lock.json "$stamp"; }

install_npm_packages() {
  log=.cache/setup-npm.log
  rm -f "$stamp"
  # Also the optional ones: the pinned Node is one. A caller's NODE_ENV must not thin them out.
  NODE_ENV='' npm ci --include=optional --include=dev --no-progress --loglevel=error >"$log" 2>&1 9>&- || {
    tail -n 15 "$log" >&2
    die 'npm ci failed (see above)' 'is the npm registry reachable? try: npm ping' "the whole log: $log"
  }
  node_modules/.bin/node --version >/dev/null ||
    die 'the pinned Node in node_modules/.bin does not run here' 'it is built for glibc 2.28 or later'
  cp package-lock.json "$stamp"
}

check_machine
# Where `ip netns` and we look for namespaces by name; gone after every boot.
mkdir -p .cache /run/netns
exec 9>.cache/setup.lock
flock -n 9 || { say 'waiting for another set-up of this checkout' && flock 9; }

missing=$(missing_packages)
if [ -n "$missing" ]; then
  say "installing Debian packages: ${missing% }"
  # shellcheck disable=SC2086
  install_packages $missing
fi
if ! npm_packages_current; then
  check_node
  say 'installing npm packages (npm ci)'
  install_npm_packages
fi
built=$(sh native/build.sh 9>&-)
[ "$built" = 'native: up to date' ] || say "$built"
say "ready: Node $(node_modules/.bin/node --version)"
