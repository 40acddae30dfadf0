# RPM: $1 is 1 or more at an upgrade. Keys and records stay: RPM knows no "purge".
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    [ "$1" -eq 0 ] || systemctl try-restart vpn-node-controller.service || :
fi
if [ "$1" -eq 0 ]; then
    # The files' own directories, which no package of RPM's has unless it names them.
    rmdir --ignore-fail-on-non-empty /usr/share/doc/vpn-node-controller/examples \
        /usr/share/doc/vpn-node-controller /usr/share/licenses/vpn-node-controller 2>/dev/null || :
fi
