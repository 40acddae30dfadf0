# RPM: $1 is 0 when the last version goes.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl disable --now vpn-node-gate.service vpn-node-updater.path || :
        # An updater that is stopped takes its trial back before it ends (ExecStopPost=).
        systemctl stop vpn-node-updater.service vpn-node-agent-exp.service || :
        systemctl disable --now vpn-node-updater-recover.service vpn-node-agent.service || :
    fi
    /opt/vpn-node/system/libexec/links remove || :
fi
