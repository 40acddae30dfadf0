# RPM: $1 is 1 at first installation, 2 at an upgrade.
systemd-sysusers vpn-node-controller.conf || exit 1
systemd-tmpfiles --create vpn-node-controller.conf || :
# RPM systems enable by preset, which is the distributor's and the operator's to say.
[ "$1" -gt 1 ] || systemctl --no-reload preset vpn-node-controller.service || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
