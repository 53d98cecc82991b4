#!/usr/bin/env bash
# The machine has no network card; a namespace is the world around it:
#
#   outside 192.0.2.1/24 --- veth --- uplink 192.0.2.2/24: the machine
set -euo pipefail
[ -e /run/netns/outside ] && exit
ip netns add outside
ip link add uplink type veth peer name eth0 netns outside
ip address add 192.0.2.2/24 dev uplink
ip -n outside address add 192.0.2.1/24 dev eth0
ip link set uplink up
ip -n outside link set eth0 up
ip -n outside link set lo up
ip route add default via 192.0.2.1
