-- The log, what stands beside its entries, and who may write what.
-- I1 to I10 are the invariants of docs/design.

-- +goose Up
CREATE TABLE deployment (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    identity   bytea       NOT NULL CHECK (octet_length(identity) BETWEEN 2 AND 65536),
    network    text        NOT NULL CHECK (network IN ('mainnet', 'testnet3', 'testnet4', 'signet', 'regtest', 'simnet')),
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE deployment IS 'Whose log this database holds: one row, written with entry 0 and never changed.';
COMMENT ON COLUMN deployment.only_row IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN deployment.identity IS 'Canonical JSON of the log identity (docs/formats.md). Entry 0 commits to its SHA-256.';
COMMENT ON COLUMN deployment.network IS 'The Bitcoin network of the identity. A server for another network refuses to start.';
COMMENT ON COLUMN deployment.created_at IS 'When the log was created.';

CREATE TABLE entry_group (
    first       bigint      PRIMARY KEY CHECK (first >= 0),
    count       integer     NOT NULL CHECK (count BETWEEN 1 AND 65536),
    commitments bytea       NOT NULL CHECK (octet_length(commitments) = 32 * count),
    group_id    uuid        NOT NULL,
    origin      text        NOT NULL CHECK (origin IN ('intake', 'rolled-forward', 'void')),
    time        timestamptz NOT NULL CHECK (extract(second FROM time) = floor(extract(second FROM time))),
    deadline    timestamptz CHECK (deadline > time AND extract(second FROM deadline) = floor(extract(second FROM deadline))),
    CONSTRAINT entry_group_below_largest_log CHECK (first + count <= 1099511627775),
    CONSTRAINT entry_group_deadline_of_intake CHECK ((origin = 'intake') = (deadline IS NOT NULL)),
    CONSTRAINT entry_group_void_is_zero CHECK (origin <> 'void' OR commitments = decode(repeat('00', 32 * count), 'hex'))
);
-- Hashes don't compress, and out of line they are not read when only the key is asked for.
ALTER TABLE entry_group ALTER COLUMN commitments SET STORAGE EXTERNAL;
COMMENT ON TABLE entry_group IS 'The log: each row is the entries of one commit group. A row is inserted behind the last one, under the advisory lock of group commit, and never updated or deleted (I2, I7).';
COMMENT ON COLUMN entry_group.first IS 'Index of the first entry. The next row begins at first + count: indices are dense (I2).';
COMMENT ON COLUMN entry_group.count IS 'Number of entries.';
COMMENT ON COLUMN entry_group.commitments IS 'The commitments, 32 bytes each, in the order of their indices.';
COMMENT ON COLUMN entry_group.group_id IS 'Random. After a COMMIT without an answer it tells whether the group at this index is the one that was sent.';
COMMENT ON COLUMN entry_group.origin IS 'intake: submitted. rolled-forward: taken back from tiles after a restore. void: fills indices that may have been promised and lost (I2).';
COMMENT ON COLUMN entry_group.time IS 'Time in the acknowledgement; of recovery, for the other origins.';
COMMENT ON COLUMN entry_group.deadline IS 'By when a checkpoint must hold the entries, as the acknowledgement says (I7). Null unless origin is intake.';

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted (I2, I3)', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION refuse_change() IS 'Trigger of the tables whose rows stay as they were written.';
CREATE TRIGGER entry_group_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON entry_group
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER deployment_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON deployment
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE document (
    id                  uuid        PRIMARY KEY,
    index               bigint      NOT NULL UNIQUE CHECK (index > 0),
    owner               text        NOT NULL CHECK (octet_length(owner) BETWEEN 1 AND 255),
    object              text        NOT NULL UNIQUE CHECK (octet_length(object) BETWEEN 1 AND 1024),
    object_version      text        NOT NULL CHECK (octet_length(object_version) <= 1024),
    plain_size          bigint      NOT NULL CHECK (plain_size > 0),
    object_size         bigint      NOT NULL CHECK (object_size > 0),
    part_size           bigint      NOT NULL CHECK (part_size > 0),
    object_checksum     text        NOT NULL CHECK (octet_length(object_checksum) BETWEEN 1 AND 255),
    sealed              bytea       NOT NULL CHECK (octet_length(sealed) BETWEEN 1 AND 65536),
    digest_tag          bytea       NOT NULL CHECK (octet_length(digest_tag) BETWEEN 16 AND 64),
    certification_index bigint      CHECK (certification_index > index),
    retain_until        timestamptz NOT NULL,
    retained_at         timestamptz,
    created_at          timestamptz NOT NULL
);
CREATE INDEX document_of_owner ON document (owner, index);
CREATE INDEX document_unretained ON document (id) WHERE retained_at IS NULL;
COMMENT ON TABLE document IS 'Documents that the service keeps. A row is written in the commit of its entry, when its object is durable already (I1).';
COMMENT ON COLUMN document.id IS 'Random (UUID version 4); names the document in the API.';
COMMENT ON COLUMN document.index IS 'Index of its entry (I2).';
COMMENT ON COLUMN document.owner IS 'Whose it is: the owner of the token that uploaded it.';
COMMENT ON COLUMN document.object IS 'Name of the object. Random; never used for two uploads (I1).';
COMMENT ON COLUMN document.object_version IS 'Version of the object, which is what retention locks; empty where the bucket has no versions.';
COMMENT ON COLUMN document.plain_size IS 'Bytes of the document.';
COMMENT ON COLUMN document.object_size IS 'Bytes of the encrypted object.';
COMMENT ON COLUMN document.part_size IS 'Bytes of each uploaded part but the last: with it the composite checksum can be computed again.';
COMMENT ON COLUMN document.object_checksum IS 'SHA-256 of the object as object storage states it: plain, or of its parts.';
COMMENT ON COLUMN document.sealed IS 'Name, media type, digest, salt: all that is personal, in one blob under the key of the document (I10).';
COMMENT ON COLUMN document.digest_tag IS 'Keyed hash of the digest; says nothing without the key (I10).';
COMMENT ON COLUMN document.certification_index IS 'Index of the entry of its certification; null: uploaded without one.';
COMMENT ON COLUMN document.retain_until IS 'Until when object storage must refuse to delete the object.';
COMMENT ON COLUMN document.retained_at IS 'When that retention was set; null: not yet, the retention loop will.';
COMMENT ON COLUMN document.created_at IS 'When it was uploaded.';

CREATE TABLE document_key (
    document_id uuid  PRIMARY KEY REFERENCES document (id),
    key_id      text  NOT NULL CHECK (octet_length(key_id) BETWEEN 1 AND 255),
    wrapped     bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 16 AND 1024)
);
COMMENT ON TABLE document_key IS 'The data key of each document, wrapped. A table of its own: deleting a row erases the document and its personal fields everywhere (I10).';
COMMENT ON COLUMN document_key.document_id IS 'The document.';
COMMENT ON COLUMN document_key.key_id IS 'Which key-encryption key of the keyring it is wrapped with.';
COMMENT ON COLUMN document_key.wrapped IS 'The wrapped data key; never an unwrapped one (I10).';

CREATE TABLE statement (
    index bigint PRIMARY KEY CHECK (index > 0),
    type  text   NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 100),
    body  bytea  NOT NULL CHECK (octet_length(body) BETWEEN 2 AND 16384),
    salt  bytea  NOT NULL CHECK (octet_length(salt) = 16)
);
COMMENT ON TABLE statement IS 'Public statements of the operator that are entries of the log: registrations of agencies, declarations of recovery.';
COMMENT ON COLUMN statement.index IS 'Index of its entry (I2).';
COMMENT ON COLUMN statement.type IS 'The type member of the statement, such as calpe/agency/v1.';
COMMENT ON COLUMN statement.body IS 'Canonical JSON of the signed statement; its SHA-256 is the digest that the entry commits to.';
COMMENT ON COLUMN statement.salt IS 'Salt of the commitment.';

CREATE TABLE agency (
    id              text        PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$'),
    name            text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    key             text        NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    statement_index bigint      NOT NULL UNIQUE REFERENCES statement (index),
    added_at        timestamptz NOT NULL
);
COMMENT ON TABLE agency IS 'Agencies that may certify documents.';
COMMENT ON COLUMN agency.id IS 'Identifier, as in certification statements.';
COMMENT ON COLUMN agency.name IS 'Name for people.';
COMMENT ON COLUMN agency.key IS 'Verifier key (vkey) of its signatures.';
COMMENT ON COLUMN agency.statement_index IS 'Index of the statement that registers it.';
COMMENT ON COLUMN agency.added_at IS 'When it was registered.';

CREATE TABLE certification (
    index       bigint PRIMARY KEY CHECK (index > 0),
    document_id uuid   NOT NULL REFERENCES document (id),
    agency      text   NOT NULL REFERENCES agency (id),
    sealed      bytea  NOT NULL CHECK (octet_length(sealed) BETWEEN 1 AND 65536)
);
COMMENT ON TABLE certification IS 'Certification statements that came with documents; each is an entry of its own.';
COMMENT ON COLUMN certification.index IS 'Index of its entry (I2).';
COMMENT ON COLUMN certification.document_id IS 'The document that it certifies.';
COMMENT ON COLUMN certification.agency IS 'Who certified.';
COMMENT ON COLUMN certification.sealed IS 'Signed statement and salt, under the key of the document: both are personal (I10).';

CREATE TABLE token (
    id         uuid        PRIMARY KEY,
    owner      text        NOT NULL CHECK (octet_length(owner) BETWEEN 1 AND 255),
    label      text        NOT NULL CHECK (octet_length(label) <= 255),
    hash       bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    scopes     text[]      NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
COMMENT ON TABLE token IS 'API tokens.';
COMMENT ON COLUMN token.id IS 'Names the token where it is listed and revoked; opens nothing.';
COMMENT ON COLUMN token.owner IS 'Whose documents it reaches.';
COMMENT ON COLUMN token.label IS 'For people.';
COMMENT ON COLUMN token.hash IS 'SHA-256 of the token. 256 random bits need no slow hash.';
COMMENT ON COLUMN token.scopes IS 'What it may do.';
COMMENT ON COLUMN token.created_at IS 'When it was made.';
COMMENT ON COLUMN token.revoked_at IS 'When it was revoked; null: valid.';

CREATE TABLE idempotency (
    owner       text        NOT NULL CHECK (octet_length(owner) BETWEEN 1 AND 255),
    key_hash    bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    request_tag bytea       NOT NULL CHECK (octet_length(request_tag) BETWEEN 16 AND 64),
    first_index bigint      NOT NULL CHECK (first_index > 0),
    count       integer     NOT NULL CHECK (count BETWEEN 1 AND 65536),
    document_id uuid        REFERENCES document (id),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (owner, key_hash)
);
COMMENT ON TABLE idempotency IS 'Which request an Idempotency-Key stood for. Written in the commit of its entries, so a repeated request gets the same answer also after a crash.';
COMMENT ON COLUMN idempotency.owner IS 'Whose key: keys of two owners never meet.';
COMMENT ON COLUMN idempotency.key_hash IS 'SHA-256 of the Idempotency-Key.';
COMMENT ON COLUMN idempotency.request_tag IS 'Keyed fingerprint of the request: the same key with another request is refused.';
COMMENT ON COLUMN idempotency.first_index IS 'Index of the first entry that the request was given (I2).';
COMMENT ON COLUMN idempotency.count IS 'Number of its entries.';
COMMENT ON COLUMN idempotency.document_id IS 'The document that it uploaded; null: hashes only.';
COMMENT ON COLUMN idempotency.created_at IS 'When.';

CREATE TABLE leader (
    role  text   PRIMARY KEY CHECK (role IN ('batch', 'anchor')),
    epoch bigint NOT NULL CHECK (epoch >= 0)
);
INSERT INTO leader (role, epoch) VALUES ('batch', 0), ('anchor', 0);
COMMENT ON TABLE leader IS 'The fencing epoch of each role that only one process may have. A leader raises it when it takes over, and each of its writes locks the row and compares.';
COMMENT ON COLUMN leader.role IS 'batch: writes tiles and checkpoints. anchor: spends coins.';
COMMENT ON COLUMN leader.epoch IS 'Number of take-overs so far. A write with another epoch is refused.';

CREATE TABLE checkpoint (
    size       bigint      PRIMARY KEY CHECK (size BETWEEN 1 AND 1099511627775),
    root       bytea       NOT NULL CHECK (octet_length(root) = 32),
    note       bytea       NOT NULL CHECK (octet_length(note) BETWEEN 1 AND 65536),
    epoch      bigint      NOT NULL CHECK (epoch > 0),
    created_at timestamptz NOT NULL
);
CREATE TRIGGER checkpoint_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
COMMENT ON TABLE checkpoint IS 'Signed checkpoints: each the root of exactly the entries below its size (I3), inserted when the tiles are durable (I4). The largest one is what is served.';
COMMENT ON COLUMN checkpoint.size IS 'Number of entries. Checkpoints only grow (I3).';
COMMENT ON COLUMN checkpoint.root IS 'RFC 6962 root of the entries below size.';
COMMENT ON COLUMN checkpoint.note IS 'The signed note, as it is served.';
COMMENT ON COLUMN checkpoint.epoch IS 'Epoch of the leader that sealed it.';
COMMENT ON COLUMN checkpoint.created_at IS 'When it was signed.';

-- +goose Down
-- Crash here, or a refusal: goose runs this in one transaction, so that nothing is dropped by half.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM entry_group) THEN
        RAISE EXCEPTION 'the log has entries: the tables of a log are not dropped (I7)'
            USING ERRCODE = 'restrict_violation', HINT = 'To remove a test log, drop its database.';
    END IF;
END
$$;
-- +goose StatementEnd
DROP TABLE checkpoint;
DROP TABLE leader;
DROP TABLE idempotency;
DROP TABLE token;
DROP TABLE certification;
DROP TABLE agency;
DROP TABLE statement;
DROP TABLE document_key;
DROP TABLE document;
DROP TABLE entry_group;
DROP TABLE deployment;
DROP FUNCTION refuse_change();
