-- Keys, copies and rehosts.

-- Every identity key that a server ever had, so that a retired one is known and refused for ever.
CREATE TABLE server_keys (
    -- SHA-256 of the public key.
    identity_key_id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    key_epoch INTEGER NOT NULL,
    public_key TEXT NOT NULL,
    -- next (a rotation was accepted, the key was not used yet), current, retired
    status TEXT NOT NULL,
    since TIMESTAMP NOT NULL,
    retired_at TIMESTAMP
);
CREATE INDEX idx_server_keys_server_id ON server_keys(server_id, status);
CREATE UNIQUE INDEX idx_server_keys_current ON server_keys(server_id) WHERE status = 'current';
CREATE UNIQUE INDEX idx_server_keys_next ON server_keys(server_id) WHERE status = 'next';
INSERT INTO server_keys (identity_key_id, server_id, key_epoch, public_key, status, since)
    SELECT s.identity_key_id, s.server_id, c.key_epoch, s.public_key, 'current', s.registration_date
    FROM servers s JOIN server_chains c ON c.server_id = s.server_id;

-- A key that gives this server a new identity, instead of enrolling a new one.
ALTER TABLE registration_keys ADD COLUMN for_server_id TEXT REFERENCES servers(server_id);
CREATE INDEX idx_registration_keys_for_server_id ON registration_keys(for_server_id);

-- Why and since when the server has its status, in words for people.
ALTER TABLE servers ADD COLUMN status_reason TEXT;
ALTER TABLE servers ADD COLUMN status_changed_at TIMESTAMP;
-- Who was stopped lately, for the held requests; and whose grace period is over.
CREATE INDEX idx_servers_status_changed_at ON servers(status, status_changed_at);
CREATE INDEX idx_servers_grace_period ON servers(grace_period_expires_at)
    WHERE grace_period_enabled = TRUE;
-- Until then an operator expects other hardware: the next mismatch becomes the new enrolled state.
ALTER TABLE servers ADD COLUMN rehost_permitted_until TIMESTAMP;
-- The newest fingerprint of a server, which the next one is compared with.
CREATE INDEX idx_hardware_verification_log_created_at
    ON hardware_verification_log(server_id, created_at);

-- When the host made its last accepted request, by our clock: its lease and its grace period run
-- from there, however late the request came.
ALTER TABLE server_chains ADD COLUMN made_at TIMESTAMP;

-- Requests that were refused as ahead, without proof: the host makes another one of the same number,
-- with proof, and a late copy of the first is no sign of a second holder.
CREATE TABLE ahead_digests (
    refusal_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    UNIQUE (server_id, digest)
);

-- Two holders of one identity, as the request showed them that did not follow the stored chain.
CREATE TABLE clone_suspicions (
    suspicion_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    seen_at TIMESTAMP NOT NULL,
    key_epoch INTEGER NOT NULL,
    -- servers.status before: what the server becomes again for the holder that is kept.
    status_before TEXT NOT NULL,
    -- What it looks like, as far as that can be told: copy, restored_snapshot, unknown; with a
    -- sentence for people.
    likely TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- The first holder: whose request was accepted last.
    first_seq INTEGER NOT NULL,
    first_seen_at TIMESTAMP,
    first_peer_ip TEXT NOT NULL,
    first_boot_id TEXT,
    -- The second holder: whose request came then. It is the only one of that number that counts
    -- when the second is kept.
    second_seq INTEGER NOT NULL,
    second_digest TEXT NOT NULL,
    -- Where its chain stands; not known of a holder that was found by its witness.
    second_chain TEXT,
    second_nonce TEXT,
    second_peer_ip TEXT NOT NULL,
    second_boot_id TEXT NOT NULL,
    -- open; resolving (one holder is kept, its new key is not in use yet); resolved
    status TEXT NOT NULL DEFAULT 'open',
    -- first, second, or reenrolled; none when the server was revoked before anybody decided
    kept TEXT,
    resolved_at TIMESTAMP
);
CREATE UNIQUE INDEX idx_clone_suspicions_unresolved ON clone_suspicions(server_id)
    WHERE status IN ('open', 'resolving');

-- True when the holder was kept whose ledger is behind what is stored: the next batch says from which
-- number on its records are new.
ALTER TABLE connection_ledgers ADD COLUMN set_back BOOLEAN NOT NULL DEFAULT FALSE;

-- Directives are more than challenges now: value and purpose belong to those alone.
CREATE TABLE directives_new (
    directive_id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    key_epoch INTEGER NOT NULL,
    -- challenge, rotate
    kind TEXT NOT NULL,
    challenge_value TEXT,
    purpose TEXT,
    issued_at TIMESTAMP NOT NULL,
    deadline_s INTEGER NOT NULL,
    -- issued_at and deadline_s together: from then on it is not handed out any more.
    expires_at TIMESTAMP NOT NULL,
    delivered_at TIMESTAMP,
    -- pending, answered, applied, late, unsupported, expired
    status TEXT NOT NULL DEFAULT 'pending',
    closed_at TIMESTAMP
);
INSERT INTO directives_new
        (directive_id, server_id, key_epoch, kind, challenge_value, purpose, issued_at, deadline_s,
         expires_at, delivered_at, status, closed_at)
    SELECT directive_id, server_id, key_epoch, kind, challenge_value, purpose, issued_at, deadline_s,
           strftime('%Y-%m-%dT%H:%M:%fZ', issued_at, '+' || deadline_s || ' seconds'),
           delivered_at, status, closed_at
    FROM directives;
DROP TABLE directives;
ALTER TABLE directives_new RENAME TO directives;
CREATE INDEX idx_directives_server_id ON directives(server_id, status);
CREATE INDEX idx_directives_kind ON directives(server_id, kind, issued_at);
CREATE INDEX idx_directives_undelivered ON directives(expires_at, server_id)
    WHERE status = 'pending' AND delivered_at IS NULL;
