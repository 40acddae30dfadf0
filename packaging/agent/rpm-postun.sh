# RPM: $1 is 1 or more at an upgrade. Keys and records stay: RPM knows no "purge".
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    [ "$1" -eq 0 ] || systemctl try-restart vpn-node-agent.service || :
fi
