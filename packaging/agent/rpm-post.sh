# RPM: $1 is 1 at first installation, 2 at an upgrade. Links and restarts: see rpm-posttrans.sh.
systemd-sysusers vpn-node.conf || exit 1
systemd-tmpfiles --create vpn-node.conf || :
if [ "$1" -eq 1 ]; then
    # RPM systems enable by preset, which is the distributor's and the operator's to say.
    for unit in vpn-node-agent.service vpn-node-updater-recover.service vpn-node-updater.path; do
        [ ! -e "/usr/lib/systemd/system/$unit" ] || systemctl --no-reload preset "$unit" || :
    done
fi
