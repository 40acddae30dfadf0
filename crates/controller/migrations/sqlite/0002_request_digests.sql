-- What was accepted under each of a server's newest numbers: tells a replay of old traffic, which
-- changes nothing, from a second holder of the identity, which stops both.
CREATE TABLE request_digests (
    server_id TEXT NOT NULL REFERENCES servers(server_id),
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (server_id, seq)
) WITHOUT ROWID;

INSERT INTO request_digests (server_id, seq, digest)
    SELECT server_id, seq, last_digest FROM server_chains WHERE last_digest IS NOT NULL;
