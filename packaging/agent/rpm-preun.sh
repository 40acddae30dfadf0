# RPM: $1 is 0 when the last version goes.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        # In this order: the gate while the agent still answers it, the path before it starts another
        # updater; an updater that is stopped takes its trial back before it ends (ExecStopPost=).
        for unit in vpn-node-gate.service vpn-node-updater.path vpn-node-updater.service \
            vpn-node-agent-exp.service vpn-node-updater-recover.service \
            vpn-node-updater-rescue.service vpn-node-agent.service; do
            # Whoever asks for more time to stop without end is ended.
            systemctl stop "$unit" || systemctl kill --signal=KILL "$unit" || :
        done
    fi
    for unit in /usr/lib/systemd/system/vpn-node-*; do
        unit=${unit##*/}
        case "$unit" in
        vpn-node-controller*) ;;
        *.service | *.socket | *.path | *.timer)
            systemctl --no-reload disable "$unit" || :
            [ ! -d /run/systemd/system ] || systemctl stop "$unit" || :
            ;;
        esac
    done
    /opt/vpn-node/system/libexec/links remove || :
fi
