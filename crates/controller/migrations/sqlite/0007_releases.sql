-- Signed releases, and which host gets which of them when.

-- One row a package: the fields below are mirrored from signed metadata and never from anywhere else.
-- package_hash is SHA-256 in hex; signature is the envelope of the targets role that names it.
ALTER TABLE server_updates ADD COLUMN target_path TEXT;
ALTER TABLE server_updates ADD COLUMN length INTEGER;
ALTER TABLE server_updates ADD COLUMN os TEXT;
ALTER TABLE server_updates ADD COLUMN arch TEXT;
ALTER TABLE server_updates ADD COLUMN channel TEXT;
-- Grows with each release of a channel and platform.
ALTER TABLE server_updates ADD COLUMN counter INTEGER;
ALTER TABLE server_updates ADD COLUMN security_floor TEXT;
-- Version of the targets metadata that names it.
ALTER TABLE server_updates ADD COLUMN targets_version INTEGER;
-- published, revoked (no longer in the metadata)
ALTER TABLE server_updates ADD COLUMN state TEXT NOT NULL DEFAULT 'published';
CREATE UNIQUE INDEX idx_server_updates_package ON server_updates(target_path, package_hash, counter);

-- Groups that an operator puts hosts into.
CREATE TABLE server_groups (
    group_name TEXT NOT NULL,
    server_id TEXT NOT NULL REFERENCES servers(server_id) ON DELETE CASCADE,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (group_name, server_id)
) WITHOUT ROWID;
CREATE INDEX idx_server_groups_server_id ON server_groups(server_id);

CREATE TABLE rollouts (
    rollout_id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    channel TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    -- running, paused (by an operator), halted (too many failures), aborted, completed
    state TEXT NOT NULL DEFAULT 'running',
    state_reason TEXT,
    state_changed_at TIMESTAMP NOT NULL,
    -- JSON arrays; both empty: every host.
    group_names TEXT NOT NULL DEFAULT '[]',
    server_ids TEXT NOT NULL DEFAULT '[]',
    -- So many first, alone, until they have it.
    canary INTEGER NOT NULL DEFAULT 0,
    percent INTEGER NOT NULL DEFAULT 100,
    max_in_flight INTEGER NOT NULL,
    -- As it was given: 'Mon-Fri 02:00-05:00 Europe/Berlin'.
    maintenance_window TEXT,
    -- Percent of ended deployments that may end badly.
    stop_on_failures INTEGER NOT NULL,
    mandatory BOOLEAN NOT NULL DEFAULT FALSE,
    -- Deployments that ended since it last began to run: what stop_on_failures is a percentage of.
    ended_well INTEGER NOT NULL DEFAULT 0,
    ended_badly INTEGER NOT NULL DEFAULT 0,
    notes TEXT
);
CREATE INDEX idx_rollouts_state ON rollouts(state);

-- status: the words of DeploymentStatus. failure_reason: "code: sentence".
ALTER TABLE server_update_deployments ADD COLUMN rollout_id TEXT REFERENCES rollouts(rollout_id);
ALTER TABLE server_update_deployments ADD COLUMN version TEXT;
ALTER TABLE server_update_deployments ADD COLUMN directive_id TEXT;
ALTER TABLE server_update_deployments ADD COLUMN code TEXT;
ALTER TABLE server_update_deployments ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE server_update_deployments ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE server_update_deployments ADD COLUMN bytes_per_s INTEGER NOT NULL DEFAULT 0;
-- When status or bytes last changed; when the host last spoke of it; how often it was told to.
ALTER TABLE server_update_deployments ADD COLUMN changed_at TIMESTAMP;
ALTER TABLE server_update_deployments ADD COLUMN reported_at TIMESTAMP;
ALTER TABLE server_update_deployments ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
-- A host has one deployment of a rollout.
CREATE UNIQUE INDEX idx_server_update_deployments_rollout
    ON server_update_deployments(rollout_id, server_id);
CREATE INDEX idx_server_update_deployments_server
    ON server_update_deployments(server_id, status);
-- In the order in which hosts get their turn.
CREATE INDEX idx_server_update_deployments_order
    ON server_update_deployments(rollout_id, deployment_id);
-- What the scheduler reads: those that hosts work on (directive_id says so), and those that wait.
CREATE INDEX idx_server_update_deployments_in_flight ON server_update_deployments(rollout_id)
    WHERE directive_id IS NOT NULL AND status IN
        ('pending', 'waiting_window', 'downloading', 'verified', 'staged', 'probation');
CREATE INDEX idx_server_update_deployments_waiting
    ON server_update_deployments(rollout_id, deployment_id)
    WHERE directive_id IS NULL AND status IN
        ('pending', 'waiting_window', 'downloading', 'verified', 'staged', 'probation');

-- What a host last said of its software (JSON of UpdateReport without its deployment), and when.
CREATE TABLE server_software (
    server_id TEXT PRIMARY KEY REFERENCES servers(server_id) ON DELETE CASCADE,
    platform TEXT NOT NULL,
    managed BOOLEAN NOT NULL,
    channel TEXT NOT NULL,
    previous_version TEXT,
    counter INTEGER NOT NULL,
    metadata_age_s INTEGER,
    pinned TEXT,
    disabled BOOLEAN NOT NULL,
    -- JSON array
    blocked TEXT NOT NULL DEFAULT '[]',
    reported_at TIMESTAMP NOT NULL
);

-- For kinds 'update' and 'cancel_update'.
ALTER TABLE directives ADD COLUMN deployment_id INTEGER REFERENCES server_update_deployments(deployment_id);
ALTER TABLE directives ADD COLUMN update_version TEXT;
ALTER TABLE directives ADD COLUMN update_target TEXT;
ALTER TABLE directives ADD COLUMN update_repository TEXT;

-- Whether a host's event was recorded lately.
CREATE INDEX idx_security_events_source ON security_events(source_id, event_type, timestamp);
