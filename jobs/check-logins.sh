#!/bin/sh
# The gate of cam-enablement.yaml: do the applications still log in? It says `green` or `red`, with the nonce it was
# given, and ends with 0 or 1. Anything else counts as silence, and the run stops.
#
# LOGIN_CHECK is the command that knows: it ends with 0 if all is well, with 1 if somebody cannot log in. Examples:
#   LOGIN_CHECK='psql -Atc "select 1" service=orders'
#   LOGIN_CHECK='/usr/local/bin/failed-logins --since 15m --at-most 3'

question=$(cat)
nonce=$(printf '%s\n' "$question" | sed -n 's/.*"nonce":"\([0-9a-f]*\)".*/\1/p')

if [ -z "$LOGIN_CHECK" ]; then
    echo "LOGIN_CHECK is not set" >&2
    exit 2
fi

sh -c "$LOGIN_CHECK" > /dev/null 2>&1 < /dev/null
case $? in
    0) echo "green $nonce" ;;
    1) echo "red $nonce"; exit 1 ;;
    *) exit 2 ;; # the check itself did not work, so nobody knows
esac
