-- The fleet's tables. Instants are RFC 3339 text in UTC with milliseconds; fixed-size binary
-- values (keys, digests, chain values, nonces) are lower-case hex. No secret stands in clear: where
-- there is one, its public half or its hash stands instead, and the column says so.

CREATE TABLE admins (
    admin_id TEXT PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'active',
    last_login TIMESTAMP,
    failed_login_attempts INTEGER DEFAULT 0,
    require_2fa BOOLEAN DEFAULT TRUE
);

CREATE TABLE registration_keys (
    -- The public half of the key that is derived from a token's secret: enrols nobody.
    registration_key TEXT PRIMARY KEY,
    created_by TEXT REFERENCES admins(admin_id),
    creation_date TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expiration_date TIMESTAMP,
    used BOOLEAN DEFAULT FALSE,
    used_by_server_id TEXT,
    used_date TIMESTAMP,
    notes TEXT,
    -- active, used, revoked
    status TEXT NOT NULL DEFAULT 'active'
);

CREATE TABLE servers (
    server_id TEXT PRIMARY KEY,
    hostname TEXT NOT NULL,
    -- The address that the last accepted request came from.
    public_ip TEXT NOT NULL,
    -- The identity's Ed25519 public key.
    public_key TEXT NOT NULL,
    version TEXT NOT NULL,
    location TEXT,
    registration_date TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_heartbeat TIMESTAMP,
    -- pending, active, quarantined, revoked
    status TEXT NOT NULL DEFAULT 'pending',
    available BOOLEAN DEFAULT FALSE,
    registered_with_key TEXT REFERENCES registration_keys(registration_key),
    verification_hash TEXT NOT NULL,
    -- Added columns.
    identity_key_id TEXT NOT NULL UNIQUE,
    idempotency_id TEXT NOT NULL,
    os_version TEXT,
    -- unverified, verified, failed, mismatch; with a sentence for people.
    verdict TEXT NOT NULL DEFAULT 'unverified',
    verdict_reason TEXT,
    -- Challenges in a row that nobody answered.
    challenges_missed INTEGER NOT NULL DEFAULT 0,
    -- What the agent last said of its own standing.
    authorisation TEXT NOT NULL DEFAULT 'unverified',
    -- pending, verified, failed, mismatch
    hardware_verification_status TEXT NOT NULL DEFAULT 'pending',
    last_hardware_verification_at TIMESTAMP,
    -- JSON; the components of the enrolment, which later ones are compared with.
    raw_hardware_components TEXT,
    grace_period_enabled BOOLEAN NOT NULL DEFAULT FALSE,
    grace_period_expires_at TIMESTAMP,
    grace_period_usage_count INTEGER NOT NULL DEFAULT 0
);

-- The request chain of each server, apart from its wide row because every request rewrites it.
CREATE TABLE server_chains (
    server_id TEXT PRIMARY KEY REFERENCES servers(server_id) ON DELETE CASCADE,
    key_epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    chain TEXT NOT NULL,
    nonce TEXT NOT NULL,
    previous_nonce TEXT,
    last_digest TEXT,
    -- The signed reply to the last request, for an identical retry.
    last_reply BLOB,
    boot_id TEXT,
    -- When that boot began, by our clock: dates the host's records.
    booted TEXT,
    peer_ip TEXT NOT NULL
);

CREATE TABLE server_capabilities (
    capability_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT REFERENCES servers(server_id) ON DELETE CASCADE,
    capability_type TEXT NOT NULL,
    capability_details TEXT NOT NULL,
    enabled BOOLEAN DEFAULT TRUE
);

CREATE TABLE personal_keys (
    key_id TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    user_email TEXT,
    key_hash TEXT NOT NULL,
    key_salt TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'active',
    creation_date TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expiration_date TIMESTAMP,
    last_rotation_date TIMESTAMP,
    created_by TEXT REFERENCES admins(admin_id),
    notes TEXT
);

CREATE TABLE devices (
    device_id TEXT PRIMARY KEY,
    key_id TEXT REFERENCES personal_keys(key_id),
    hardware_fingerprint TEXT NOT NULL,
    device_name TEXT,
    platform TEXT NOT NULL,
    first_seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    status TEXT NOT NULL DEFAULT 'active'
);

CREATE TABLE connections (
    connection_id TEXT PRIMARY KEY,
    server_id TEXT REFERENCES servers(server_id),
    device_id TEXT REFERENCES devices(device_id),
    key_id TEXT REFERENCES personal_keys(key_id),
    user_name TEXT,
    connection_start TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    connection_end TIMESTAMP,
    -- active, ended
    status TEXT NOT NULL DEFAULT 'active',
    -- The backend's kind, for example wireguard.
    connection_type TEXT NOT NULL,
    -- Empty when the daemon does not tell.
    client_ip TEXT NOT NULL,
    disconnection_reason TEXT,
    -- Added columns.
    backend_instance TEXT NOT NULL,
    client_port INTEGER,
    -- Who the client is in the daemon's own terms: opaque, shown escaped. Absent when only the end
    -- of a connection ever came.
    client_identity_kind TEXT,
    client_identity TEXT,
    -- True until the identity is mapped to a device and a personal key.
    needs_mapping BOOLEAN NOT NULL DEFAULT TRUE,
    -- JSON array of texts.
    virtual_ips TEXT NOT NULL DEFAULT '[]',
    rx_bytes INTEGER NOT NULL DEFAULT 0,
    tx_bytes INTEGER NOT NULL DEFAULT 0,
    -- observed or inferred; connection_end lies in an interval this many milliseconds wide.
    end_confidence TEXT,
    end_uncertainty_ms INTEGER,
    last_event_at TIMESTAMP NOT NULL
);

-- How far each ledger of a host is stored: moves in the transaction that stores the records.
CREATE TABLE connection_ledgers (
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    ledger_epoch TEXT NOT NULL,
    acked_through INTEGER NOT NULL,
    PRIMARY KEY (server_id, ledger_epoch)
);

-- Each ledger record that was applied, once.
CREATE TABLE connection_events (
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    ledger_epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    connection_id TEXT NOT NULL,
    -- start, update, end
    event TEXT NOT NULL,
    event_time TIMESTAMP NOT NULL,
    PRIMARY KEY (server_id, ledger_epoch, seq)
);
CREATE INDEX idx_connection_events_connection_id ON connection_events(connection_id);

-- Ledger sequences that nobody can read any more: lost on the host, unreadable here, or missing.
CREATE TABLE connection_gaps (
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    ledger_epoch TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    -- torn, damaged, missing, dropped, refused (said by the host); unreadable, invalid, not_sent
    -- (found here)
    reason TEXT NOT NULL,
    reported_at TIMESTAMP NOT NULL,
    PRIMARY KEY (server_id, ledger_epoch, first_seq)
);

CREATE TABLE heartbeats (
    heartbeat_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT REFERENCES servers(server_id) ON DELETE CASCADE,
    received_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    signature_valid BOOLEAN NOT NULL,
    active_connections INTEGER NOT NULL DEFAULT 0,
    current_location TEXT,
    -- JSON; the whole body of the heartbeat. NULL when its signature did not hold.
    system_metrics TEXT
);

CREATE TABLE server_verifications (
    verification_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT REFERENCES servers(server_id) ON DELETE CASCADE,
    verification_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    -- The challenge's random value.
    challenge_sent TEXT NOT NULL,
    -- The digest of the signed answer.
    response_received TEXT,
    verification_result BOOLEAN,
    verification_method TEXT NOT NULL,
    failure_reason TEXT,
    -- Added columns.
    challenge_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    -- For people: for example which components changed.
    detail TEXT
);
CREATE INDEX idx_server_verifications_challenge_id ON server_verifications(challenge_id);

CREATE TABLE hardware_verification_log (
    id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    -- The fingerprint's hash as the host stated it.
    hardware_id TEXT NOT NULL,
    raw_components TEXT,
    -- success, mismatch, invalid, error
    verification_result TEXT,
    error_details TEXT,
    client_ip TEXT,
    os_version TEXT,
    verified_at TIMESTAMP,
    created_at TIMESTAMP
);
CREATE INDEX idx_hardware_verification_log_server_id ON hardware_verification_log(server_id);

-- What the controller wants of a host. Signed when it is handed out, which gives the same bytes
-- each time, so that a command of the operator's needs no signing key.
CREATE TABLE directives (
    directive_id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    key_epoch INTEGER NOT NULL,
    -- challenge
    kind TEXT NOT NULL,
    challenge_value TEXT NOT NULL,
    purpose TEXT NOT NULL,
    issued_at TIMESTAMP NOT NULL,
    deadline_s INTEGER NOT NULL,
    delivered_at TIMESTAMP,
    -- pending, answered, applied, late, unsupported, expired
    status TEXT NOT NULL DEFAULT 'pending',
    closed_at TIMESTAMP
);
CREATE INDEX idx_directives_server_id ON directives(server_id, status);
CREATE INDEX idx_directives_status ON directives(status, delivered_at);

CREATE TABLE security_events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    event_type TEXT NOT NULL,
    severity TEXT NOT NULL,
    component TEXT NOT NULL,
    source_id TEXT,
    description TEXT NOT NULL,
    handled BOOLEAN DEFAULT FALSE,
    handled_by TEXT REFERENCES admins(admin_id),
    handling_notes TEXT,
    user_name TEXT
);

CREATE TABLE admin_actions (
    action_id INTEGER PRIMARY KEY AUTOINCREMENT,
    admin_id TEXT REFERENCES admins(admin_id),
    action_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    action_type TEXT NOT NULL,
    target_type TEXT NOT NULL,
    target_id TEXT NOT NULL,
    action_details TEXT,
    ip_address TEXT
);

CREATE TABLE server_updates (
    update_id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    release_date TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    package_hash TEXT NOT NULL,
    signature TEXT NOT NULL,
    update_description TEXT,
    created_by TEXT REFERENCES admins(admin_id),
    mandatory BOOLEAN DEFAULT FALSE,
    min_version_required TEXT
);

CREATE TABLE server_update_deployments (
    deployment_id INTEGER PRIMARY KEY AUTOINCREMENT,
    update_id TEXT REFERENCES server_updates(update_id),
    server_id TEXT REFERENCES servers(server_id),
    deployment_time TIMESTAMP,
    status TEXT NOT NULL DEFAULT 'pending',
    installation_time TIMESTAMP,
    failure_reason TEXT,
    previous_version TEXT
);

CREATE INDEX idx_registration_keys_status ON registration_keys(status);
CREATE INDEX idx_registration_keys_used ON registration_keys(used);
CREATE INDEX idx_registration_keys_expiration ON registration_keys(expiration_date);

CREATE INDEX idx_servers_status ON servers(status);
CREATE INDEX idx_servers_last_heartbeat ON servers(last_heartbeat);
CREATE INDEX idx_servers_location ON servers(location);
CREATE INDEX idx_servers_registered_with_key ON servers(registered_with_key);

CREATE INDEX idx_personal_keys_status ON personal_keys(status);
CREATE INDEX idx_personal_keys_user ON personal_keys(user_name);
CREATE INDEX idx_devices_key_id ON devices(key_id);
CREATE INDEX idx_devices_last_seen ON devices(last_seen);
CREATE INDEX idx_devices_status ON devices(status);

CREATE INDEX idx_connections_status ON connections(status);
CREATE INDEX idx_connections_server_id ON connections(server_id);
CREATE INDEX idx_connections_device_id ON connections(device_id);
CREATE INDEX idx_connections_user ON connections(user_name);
CREATE INDEX idx_connections_start ON connections(connection_start);
CREATE INDEX idx_connections_end ON connections(connection_end);

CREATE INDEX idx_security_events_severity ON security_events(severity);
CREATE INDEX idx_security_events_handled ON security_events(handled);
CREATE INDEX idx_security_events_timestamp ON security_events(timestamp);
CREATE INDEX idx_heartbeats_server_id ON heartbeats(server_id);
CREATE INDEX idx_heartbeats_received_time ON heartbeats(received_time);

CREATE INDEX idx_admin_actions_admin_id ON admin_actions(admin_id);
CREATE INDEX idx_admin_actions_action_type ON admin_actions(action_type);
CREATE INDEX idx_server_updates_version ON server_updates(version);
CREATE INDEX idx_server_update_deployments_status ON server_update_deployments(status);
CREATE INDEX idx_server_verifications_server_id ON server_verifications(server_id);
CREATE INDEX idx_server_verifications_result ON server_verifications(verification_result);
