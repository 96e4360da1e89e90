#!/bin/sh
# Servers, exporters and the browser that some tests talk to, from Debian's packages, where that can be done: as root, with apt-get.
# Elsewhere the tests that need what is missing are skipped, and say so. Nothing is started here.
set -u
missing=""
command -v redis-server > /dev/null || missing="$missing redis-server"
command -v softflowd > /dev/null || [ -x /usr/sbin/softflowd ] || missing="$missing softflowd"
ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || missing="$missing postgresql"
command -v java > /dev/null || missing="$missing openjdk-17-jre-headless"
command -v chromium > /dev/null || missing="$missing chromium"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "not installed, tests that need them are skipped:$missing"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
# shellcheck disable=SC2086
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } > /dev/null 2>&1 \
  || echo "could not be installed, tests that need them are skipped:$missing"
