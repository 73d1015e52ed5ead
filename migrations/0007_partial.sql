-- Documents that come in pieces (docs/design/0008-pieces.md).
-- SQL comments cite the invariants of docs/design/README.md.

-- +goose Up
CREATE TABLE partial (
    id           uuid        PRIMARY KEY,
    owner        text        NOT NULL CHECK (octet_length(owner) BETWEEN 1 AND 255),
    size         bigint      NOT NULL CHECK (size > 0),
    object       text        NOT NULL UNIQUE CHECK (octet_length(object) BETWEEN 1 AND 1024),
    multipart    text        NOT NULL CHECK (octet_length(multipart) BETWEEN 1 AND 1024),
    received     bigint      NOT NULL CHECK (received BETWEEN 0 AND size),
    tail         text        CHECK (octet_length(tail) BETWEEN 1 AND 1024),
    sealed       bytea       CHECK (octet_length(sealed) BETWEEN 1 AND 65536),
    state        bytea       CHECK (octet_length(state) BETWEEN 1 AND 1024),
    document_id  uuid,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    lease        uuid,
    leased_until timestamptz
);
CREATE INDEX partial_of_owner ON partial (owner);
CREATE INDEX partial_expiry ON partial (expires_at);
COMMENT ON TABLE partial IS 'Documents that come in pieces, and have not come whole. A row stays for a while behind the document that it became.';
COMMENT ON COLUMN partial.id IS 'Random (UUID version 4); also the id of the document that it becomes.';
COMMENT ON COLUMN partial.owner IS 'Whose it is.';
COMMENT ON COLUMN partial.size IS 'Bytes of the whole document.';
COMMENT ON COLUMN partial.object IS 'Name of the object that the parts will be.';
COMMENT ON COLUMN partial.multipart IS 'Id of the multipart upload, as object storage calls it.';
COMMENT ON COLUMN partial.received IS 'Bytes of the document that are durable (I1); the whole of it only when it is recorded.';
COMMENT ON COLUMN partial.tail IS 'Object that holds the beginning of the next part, encrypted; null: there is none.';
COMMENT ON COLUMN partial.sealed IS 'What the client said of the document, under its key (I10); null: it is recorded.';
COMMENT ON COLUMN partial.state IS 'The running hash behind the last full part, under the key of the document (I10); null: it is recorded.';
COMMENT ON COLUMN partial.document_id IS 'The document that was recorded; null: none yet.';
COMMENT ON COLUMN partial.created_at IS 'When it was begun.';
COMMENT ON COLUMN partial.expires_at IS 'When it is given up.';
COMMENT ON COLUMN partial.lease IS 'Who is adding to it: drawn anew for each request; null: nobody.';
COMMENT ON COLUMN partial.leased_until IS 'Until when, unless that is renewed.';

CREATE TABLE partial_key (
    partial_id uuid  PRIMARY KEY REFERENCES partial (id) ON DELETE CASCADE,
    key_id     text  NOT NULL CHECK (octet_length(key_id) BETWEEN 1 AND 255),
    wrapped    bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 16 AND 1024)
);
COMMENT ON TABLE partial_key IS 'The data key of each, wrapped, in a table of its own (I10). It goes when the document is recorded, which has it then, or when it is given up.';
COMMENT ON COLUMN partial_key.partial_id IS 'What it is of.';
COMMENT ON COLUMN partial_key.key_id IS 'Which key-encryption key of the keyring it is wrapped with.';
COMMENT ON COLUMN partial_key.wrapped IS 'The wrapped data key; never an unwrapped one (I10).';

CREATE TABLE partial_part (
    partial_id uuid    NOT NULL REFERENCES partial (id) ON DELETE CASCADE,
    number     integer NOT NULL CHECK (number BETWEEN 1 AND 10000),
    etag       text    NOT NULL CHECK (octet_length(etag) BETWEEN 1 AND 255),
    sum        bytea   NOT NULL CHECK (octet_length(sum) = 32),
    PRIMARY KEY (partial_id, number)
);
COMMENT ON TABLE partial_part IS 'Parts that object storage has. A row is written when its part is durable (I1).';
COMMENT ON COLUMN partial_part.partial_id IS 'Of what.';
COMMENT ON COLUMN partial_part.number IS 'From 1.';
COMMENT ON COLUMN partial_part.etag IS 'As object storage answered.';
COMMENT ON COLUMN partial_part.sum IS 'SHA-256 of the encrypted part.';

-- +goose Down
-- What hasn't come whole is given up; its objects are swept as orphans.
DROP TABLE partial_part;
DROP TABLE partial_key;
DROP TABLE partial;
