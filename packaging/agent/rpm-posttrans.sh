# RPM: after everything, also after the files of an older package are gone: one that had programs in
# /usr/bin would take our links there with it. $1 is 1 at first installation, 2 at an upgrade (older
# RPMs do not say).
/opt/vpn-node/system/libexec/links install || exit 1
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # No boot comes between: what waits for the agent's requests is started here.
    ! systemctl is-enabled --quiet vpn-node-updater.path 2>/dev/null || systemctl start vpn-node-updater.path || :
    # Only if it runs. What is on trial goes on, and so does the gate: its restart would stop the
    # services that are bound to it.
    systemctl try-restart vpn-node-agent.service || {
        # A process may ask for more time to stop without end: a broken-into one must not outlive the
        # version that mends it.
        systemctl kill --signal=KILL vpn-node-agent.service || :
        systemctl start vpn-node-agent.service || :
    }
fi
