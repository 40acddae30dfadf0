# RPM: $1 is 1 or more at an upgrade. Keys and records stay, and what the updater installed in
# /opt/vpn-node/versions: RPM knows no "purge".
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
