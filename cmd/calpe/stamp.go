package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

type stampCommand struct {
	connection
	credentials
	pinning
	waiting
	Digest   string   `help:"Stamp this SHA-256 instead of a file. The receipt goes to HEX.receipt.json." placeholder:"HEX"`
	Dir      string   `help:"Stamp all files in this folder and those below." placeholder:"FOLDER"`
	FromFile string   `help:"Stamp the SHA-256 digests in this file: 64 hexadecimal digits a line, or 32 bytes for each. The receipts go to FILE.receipts/HEX.receipt.json." placeholder:"FILE"`
	Output   string   `short:"o" help:"Where the receipt of --digest goes; with --from-file, the folder of the receipts." placeholder:"FILE"`
	Files    []string `arg:"" optional:"" name:"file" help:"Document to stamp."`
}

func (stampCommand) Help() string {
	return `The service gets a commitment, SHA-256(digest || salt) with a random salt that is drawn here, and learns nothing of the document. The salt is in the receipt and nowhere else: without the receipt the entry proves nothing. FILE.stamp-pending.json holds it before anything is sent, until the receipt is written; if something goes wrong, run the same command again.

--dir and --from-file send all commitments as one stream, of any length. Files that have a receipt already are left out. Until all receipts are written, calpe.stamp-pending.ndjson beside them remembers the upload: after a crash, a cut or a restart of the service, the same command goes on where it was, and nothing is recorded twice.`
}

func (c *stampCommand) Run(ctx context.Context, a *app) error {
	if c.Dir != "" || c.FromFile != "" {
		return c.runMany(ctx, a)
	}
	if (c.Digest == "") == (len(c.Files) == 0) {
		return errors.New("give files to stamp, or one --digest, --dir or --from-file")
	}
	if c.Output != "" && c.Digest == "" {
		return errors.New("--output is for --digest: the receipt of FILE is FILE.receipt.json")
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	digests := map[string]calpe.Digest{} // of names that aren't files
	names := c.Files
	if c.Digest != "" {
		if digests[c.Digest], err = calpe.ParseDigest(c.Digest); err != nil {
			return fmt.Errorf("--digest: %w", err)
		}
		names = []string{c.Digest}
	}
	s, err := c.open(a, token)
	if err != nil {
		return err
	}
	id, err := c.identity(ctx, s)
	if err != nil {
		return err
	}
	return notarizeAll(ctx, a, s, c.waiting, names, func(ctx context.Context, name string) (*receiptFile, error) {
		if digest, ok := digests[name]; ok {
			return stamp(ctx, s, id, cmp.Or(c.Output, name+".receipt.json"), digest)
		}
		doc, err := a.hashDocument(ctx, name)
		if err != nil {
			return nil, err
		}
		return stamp(ctx, s, id, name+".receipt.json", doc.digest)
	})
}

// commitmentAnswer is what the service says of a commitment that it has recorded.
type commitmentAnswer struct {
	Index           uint64           `json:"index"`
	Commitment      calpe.Commitment `json:"commitment"`
	State           calpe.State      `json:"state"`
	Acknowledgement *receipt.Promise `json:"acknowledgement"`
}

// stamp brings one digest to where its receipt is durable.
func stamp(ctx context.Context, s *service, id receipt.Identity, path string, digest calpe.Digest) (*receiptFile, error) {
	f := &receiptFile{path: path, id: id}
	pendingPath := strings.TrimSuffix(path, ".receipt.json") + ".stamp-pending.json"
	if there, err := f.resume(digest, nil, pendingPath); there || err != nil {
		return f, err
	}
	p, err := begin(pendingPath, pending{Server: s.base.String(), Digest: digest, Salt: newSalt()})
	if err != nil {
		return nil, err
	}
	answer, err := s.postCommitment(ctx, calpe.Commit(digest, *p.Salt), p.Key)
	if err != nil {
		return nil, p.drop(err)
	}
	// Crash here: the commitment is recorded, and its salt is in the pending file. The next run gets the same answer.
	if err := checkAcknowledged(entryOf(answer.Index, digest, *p.Salt), *answer.Acknowledgement, id); err != nil {
		return nil, err
	}
	f.r = receipt.Receipt{Type: receipt.ReceiptType, Log: id.Hash(), Digest: digest, Salt: *p.Salt, Index: answer.Index,
		Acknowledgement: answer.Acknowledgement}
	f.state = answer.State
	if err := check(f.r, digest, id); err != nil {
		return nil, err
	}
	if err := writeReceipt(f.path, f.r); err != nil {
		return nil, err
	}
	// Crash here: the receipt is durable. The next run finds it, and removes the pending file.
	return f, p.end()
}

func (s *service) postCommitment(ctx context.Context, commitment calpe.Commitment, key string) (commitmentAnswer, error) {
	what := "stamp"
	body, err := json.Marshal(map[string]calpe.Commitment{"commitment": commitment})
	if err != nil {
		return commitmentAnswer{}, err
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("Idempotency-Key", key)
	data, err := s.do(ctx, call{what: what, method: http.MethodPost, path: "v1/commitments", header: header, limit: maxAnswer,
		body: func() (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		}})
	if err != nil {
		return commitmentAnswer{}, err
	}
	var answer commitmentAnswer
	if err := decodeAnswer(what, data, &answer); err != nil {
		return commitmentAnswer{}, err
	}
	if answer.Commitment != commitment || answer.Acknowledgement == nil {
		return commitmentAnswer{}, fmt.Errorf("%w: the service answers for another commitment, or without an acknowledgement", errRefuted)
	}
	return answer, nil
}
