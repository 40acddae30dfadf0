# RPM: $1 is 1 or more at an upgrade. Keys and records stay, and what the updater installed in
# /opt/vpn-node/versions: RPM knows no "purge".
if [ "$1" -eq 0 ]; then
    # A service that is bound to a unit which is no more could never start, and nothing would be left
    # to unbind it with.
    rm -rf /etc/systemd/system/vpn-node-gate.service.wants
    for file in /etc/systemd/system/*.service.d/50-vpn-node-gate.conf; do
        [ -e "$file" ] || continue
        echo "vpn-node: ${file%.d/*} is no longer bound to the gate" >&2
        rm -f "$file"
        rmdir --ignore-fail-on-non-empty "${file%/*}"
    done
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 0 ]; then
    # The files' own directories, which no package of RPM's has unless it names them.
    rmdir --ignore-fail-on-non-empty /usr/share/doc/vpn-node-agent \
        /usr/share/licenses/vpn-node-agent /usr/lib/vpn-node 2>/dev/null || :
fi
