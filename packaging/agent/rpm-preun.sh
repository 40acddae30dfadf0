# RPM: $1 is 0 when the last version goes.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now vpn-node-gate.service vpn-node-agent.service || :
fi
