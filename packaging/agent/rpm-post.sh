# RPM: $1 is 1 at first installation, 2 at an upgrade.
systemd-sysusers vpn-node.conf || exit 1
systemd-tmpfiles --create vpn-node.conf || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
# RPM systems enable by preset, which is the distributor's and the operator's to say.
[ "$1" -gt 1 ] || systemctl preset vpn-node-agent.service vpn-node-updater-recover.service vpn-node-updater.path || :
