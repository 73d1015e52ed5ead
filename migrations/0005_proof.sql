-- Anchoring by OpenTimestamps calendars: what they were asked, what they promised, and the blocks that it led to.
-- The states and the edges between them are those of package anchor/ledger (I6); docs/design/0006-calendars.md has the reasons.

-- +goose Up
CREATE TABLE proof (
    size         bigint      NOT NULL CHECK (size BETWEEN 1 AND 1099511627775),
    calendar     text        NOT NULL CHECK (octet_length(calendar) BETWEEN 1 AND 1000),
    root         bytea       NOT NULL CHECK (octet_length(root) = 32),
    state        text        NOT NULL CHECK (state IN ('wanted', 'pending', 'attested', 'confirmed', 'final')),
    promise      bytea       CHECK (octet_length(promise) BETWEEN 1 AND 10000),
    operations   bytea       CHECK (octet_length(operations) BETWEEN 1 AND 10000),
    height       bigint      CHECK (height BETWEEN 0 AND 4294967295),
    block        bytea       CHECK (octet_length(block) = 32),
    header       bytea       CHECK (octet_length(header) = 80),
    epoch        bigint      NOT NULL CHECK (epoch > 0),
    created_at   timestamptz NOT NULL,
    submitted_at timestamptz,
    asked_at     timestamptz,
    attested_at  timestamptz,
    PRIMARY KEY (size, calendar),
    CONSTRAINT proof_promise_before_pending CHECK ((state = 'wanted') = (promise IS NULL) AND (promise IS NULL) = (submitted_at IS NULL)),
    CONSTRAINT proof_way_to_a_block CHECK ((state IN ('attested', 'confirmed', 'final')) = (operations IS NOT NULL)
        AND (operations IS NULL) = (height IS NULL) AND (operations IS NULL) = (attested_at IS NULL)),
    CONSTRAINT proof_checked_has_header CHECK ((state IN ('confirmed', 'final')) = (block IS NOT NULL) AND (block IS NULL) = (header IS NULL))
);
CREATE INDEX proof_by_state ON proof (state, size);
CREATE TRIGGER proof_never_forgotten BEFORE DELETE OR TRUNCATE ON proof
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
COMMENT ON TABLE proof IS 'What one calendar was asked, and has proved, of the payload of one size. Stored before it is submitted; never deleted.';
COMMENT ON COLUMN proof.size IS 'Log size in the payload.';
COMMENT ON COLUMN proof.calendar IS 'Address of the calendar, as it is configured.';
COMMENT ON COLUMN proof.root IS 'Root in the payload: of exactly that many entries (I3).';
COMMENT ON COLUMN proof.state IS 'wanted, pending, attested, confirmed, final. Moves along the table of anchor/ledger only (I6).';
COMMENT ON COLUMN proof.promise IS 'What the calendar answered to SHA-256 of the payload: an OpenTimestamps timestamp, pending somewhere.';
COMMENT ON COLUMN proof.operations IS 'The way from SHA-256 of the payload to the Merkle root of a block, as in a receipt.';
COMMENT ON COLUMN proof.height IS 'Height of that block, as the calendar states it.';
COMMENT ON COLUMN proof.block IS 'The block at that height, whose Merkle root was compared. NULL: no header of that height was known.';
COMMENT ON COLUMN proof.header IS 'Its header.';
COMMENT ON COLUMN proof.epoch IS 'Epoch of the leader that wanted it.';
COMMENT ON COLUMN proof.created_at IS 'When it was wanted.';
COMMENT ON COLUMN proof.submitted_at IS 'When the calendar promised.';
COMMENT ON COLUMN proof.asked_at IS 'When the calendar was last asked for the rest. NULL: not yet, or it is to be asked anew.';
COMMENT ON COLUMN proof.attested_at IS 'When the rest came.';

-- +goose Down
-- Crash here, or a refusal: goose runs this in one transaction, so that nothing is dropped by half.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM proof WHERE promise IS NOT NULL) THEN
        RAISE EXCEPTION 'there are proofs by calendars, which may be all that anchors this log'
            USING ERRCODE = 'restrict_violation', HINT = 'To remove a test log, drop its database.';
    END IF;
END
$$;
-- +goose StatementEnd
DROP TABLE proof;
