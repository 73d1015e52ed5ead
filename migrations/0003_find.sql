-- A document is found without its receipt: by its digest, or by a code.
-- SQL comments cite the invariants of docs/design/README.md.

-- +goose Up
-- A server of the version before may be running: it goes on with a column that it
-- doesn't name. Its uploads wait while the two indexes are built, about a second
-- for a million documents.
ALTER TABLE document ADD COLUMN code_hash bytea CONSTRAINT document_code_hash UNIQUE CHECK (octet_length(code_hash) = 32);
COMMENT ON COLUMN document.code_hash IS 'SHA-256 of the code by which it is found; the code itself is sealed (I10). NULL: uploaded before there were codes.';

CREATE INDEX document_of_digest ON document (digest_tag, index);

-- +goose Down
-- Crash here, or a refusal: goose runs this in one transaction, so that nothing is dropped by half.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM document WHERE code_hash IS NOT NULL) THEN
        RAISE EXCEPTION 'documents have codes, which are in people''s hands: without this column they find nothing'
            USING ERRCODE = 'restrict_violation', HINT = 'To remove a test log, drop its database.';
    END IF;
END
$$;
-- +goose StatementEnd
DROP INDEX document_of_digest;
ALTER TABLE document DROP COLUMN code_hash;
