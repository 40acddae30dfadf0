-- Devices and personal keys come alive; connections are ended from here.

-- What a VPN daemon calls a device: a WireGuard public key, a certificate's common name, and so on.
-- One device at most has each; a device may have several.
CREATE TABLE device_identities (
    -- wireguard, certificate, eap, ike, user: as in connections.client_identity_kind
    identity_kind TEXT NOT NULL,
    -- As the hosts write it: printable ASCII, everything else escaped.
    identity TEXT NOT NULL,
    device_id TEXT NOT NULL REFERENCES devices(device_id) ON DELETE CASCADE,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (identity_kind, identity)
) WITHOUT ROWID;
CREATE INDEX idx_device_identities_device_id ON device_identities(device_id);

-- devices.status is active or revoked, personal_keys.status active, expired or revoked: why, and
-- since when. personal_keys.key_hash is Argon2id in the form of the PHC string format, parameters
-- and salt included; key_salt is the salt alone, in hex.
ALTER TABLE devices ADD COLUMN status_reason TEXT;
ALTER TABLE devices ADD COLUMN status_changed_at TIMESTAMP;
ALTER TABLE personal_keys ADD COLUMN status_reason TEXT;
ALTER TABLE personal_keys ADD COLUMN status_changed_at TIMESTAMP;
-- Which keys are to expire, for the sweep.
CREATE INDEX idx_personal_keys_expiration ON personal_keys(expiration_date)
    WHERE status = 'active' AND expiration_date IS NOT NULL;
CREATE INDEX idx_devices_name ON devices(device_name);

-- For kind 'disconnect': a JSON array of ids, and admin_kick or revoked. An applied one is done, and
-- so is one with status failed; outcome_detail is the host's sentence about it.
ALTER TABLE directives ADD COLUMN connection_ids TEXT;
ALTER TABLE directives ADD COLUMN disconnect_reason TEXT;
ALTER TABLE directives ADD COLUMN outcome_detail TEXT;
CREATE INDEX idx_directives_disconnect ON directives(issued_at) WHERE kind = 'disconnect';

-- One row for each backend of a host. Those of an enrolment have no instance.
ALTER TABLE server_capabilities ADD COLUMN instance TEXT NOT NULL DEFAULT '';
-- When a heartbeat last told of it.
ALTER TABLE server_capabilities ADD COLUMN seen_at TIMESTAMP;
DELETE FROM server_capabilities WHERE capability_id NOT IN
    (SELECT MAX(capability_id) FROM server_capabilities GROUP BY server_id, capability_type);
CREATE UNIQUE INDEX idx_server_capabilities_instance
    ON server_capabilities(server_id, capability_type, instance);

-- Connections that wait for a mapping, by what would map them; those of a device and of a key that
-- are up, which a revocation ends.
CREATE INDEX idx_connections_unmapped ON connections(client_identity_kind, client_identity)
    WHERE needs_mapping = TRUE;
CREATE INDEX idx_connections_live_device ON connections(device_id) WHERE status = 'active';
CREATE INDEX idx_connections_live_key ON connections(key_id) WHERE status = 'active';
