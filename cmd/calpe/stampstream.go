package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// maxLine of a service's answer: a note is some hundred bytes.
const maxLine = 64 << 10

// manyUpload sends the commitments of a manifest, and keeps the receipts.
type manyUpload struct {
	*many
	m     *manifest
	done  uint64 // commitments whose receipts are durable
	doubt bool   // something may have been recorded
	bar   meter
}

// upload brings all commitments of a manifest to where their receipts are durable.
func (m *many) upload(ctx context.Context, begun *manifest) error {
	u := &manyUpload{many: m, m: begun, doubt: !begun.fresh, bar: m.a.newMeter("stamp", int64(begun.Count), false)}
	defer u.bar.done()
	for attempt := 1; ; attempt++ {
		before := u.done
		err := u.attempt(ctx)
		if err == nil {
			return begun.end()
		}
		if u.done > before {
			attempt = 1
		}
		p, refused := errors.AsType[*problem](err)
		u.doubt = u.doubt || !refused && !unsent(err) || refused && p.Status >= 500
		delay, again := m.s.retryDelay(err, attempt)
		if !again || errors.Is(err, errRefuted) || ctx.Err() != nil {
			return u.drop(fmt.Errorf("stamp: %d of %d are recorded, with receipts: %w", u.done, begun.Count, err))
		}
		m.a.notice("stamp: %s; going on in %v", briefly(err), delay.Round(100*time.Millisecond))
		if err := m.s.wait(ctx, delay); err != nil {
			return err
		}
	}
}

// drop removes the manifest of an upload of this run that was refused or never
// left, if it is certain that nothing of it was recorded.
func (u *manyUpload) drop(err error) error {
	p, refused := errors.AsType[*problem](err)
	certain := refused && p.Status/100 == 4 || unsent(err)
	if u.doubt || u.done > 0 || !certain {
		return err
	}
	return errors.Join(err, u.m.end())
}

// attempt asks what is recorded already, if there may be something, and sends the
// rest. Crash anywhere: the next run asks, and writes the receipts that are missing.
func (u *manyUpload) attempt(ctx context.Context) error {
	if u.doubt {
		if err := u.exchange(ctx, http.MethodGet); err != nil {
			return err
		}
	}
	if u.done == u.m.Count {
		return nil
	}
	if err := u.exchange(ctx, http.MethodPost); err != nil {
		return err
	}
	if u.done != u.m.Count {
		return fmt.Errorf("%w: the service says that all is recorded, and %d of %d commitments are missing", errRefuted, u.m.Count-u.done, u.m.Count)
	}
	return nil
}

// exchange makes one request at the offset that has been reached, and takes what
// is answered while it is sent.
func (u *manyUpload) exchange(ctx context.Context, method string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(u.s.idle, func() { cancel(fmt.Errorf("%w for %v", errIdle, u.s.idle)) })
	defer timer.Stop()
	moved := func() { timer.Reset(u.s.idle) }

	header := http.Header{}
	header.Set("Idempotency-Key", u.m.Key)
	header.Set("Accept", "application/x-ndjson")
	c := call{method: method, path: "v1/commitments", query: url.Values{"offset": {strconv.FormatUint(u.done, 10)}}, header: header}
	if method == http.MethodPost {
		header.Set("Content-Type", "application/octet-stream")
		c.body = u.body
	}
	req, err := u.s.request(ctx, c, moved)
	if err != nil {
		return err
	}
	resp, err := u.s.client.Do(req)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return u.s.readProblem(resp)
	}
	u.doubt = true
	return u.take(ctx, resp.Body, moved)
}

// body is what is left of the upload.
func (u *manyUpload) body() (io.ReadCloser, int64, error) {
	items, err := u.m.read(u.done)
	if err != nil {
		return nil, 0, err
	}
	return &packedItems{items: items, left: u.m.Count - u.done}, int64(u.m.Count-u.done) * calpe.HashSize, nil
}

// packedItems reads the commitments of items, one behind the other.
type packedItems struct {
	items *itemReader
	left  uint64
	rest  []byte // of the last one
}

func (p *packedItems) Read(buf []byte) (n int, err error) {
	for n < len(buf) {
		if len(p.rest) == 0 {
			if p.left == 0 {
				break
			}
			item, err := p.items.item()
			if err != nil {
				return n, err
			}
			p.left--
			p.rest = item.commitment[:]
		}
		copied := copy(buf[n:], p.rest)
		n, p.rest = n+copied, p.rest[copied:]
	}
	if n == 0 && len(buf) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (p *packedItems) Close() error { return p.items.file.Close() }

// streamLine is a line of the service's answer: for a group, the end, or an error.
type streamLine struct {
	Offset          uint64 `json:"offset"`
	First           uint64 `json:"first"`
	Count           uint64 `json:"count"`
	Acknowledgement *struct {
		Note string       `json:"note"`
		Path receipt.Path `json:"path"`
	} `json:"acknowledgement"`
	Recorded *uint64 `json:"recorded"`
	Error    *struct {
		problem
		Status int `json:"status"`
	} `json:"error"`
	RetryAfter int64 `json:"retry_after"`
}

// take reads an answer, and keeps the receipts of each group.
func (u *manyUpload) take(ctx context.Context, answer io.Reader, moved func()) error {
	items, err := u.m.read(u.done)
	if err != nil {
		return err
	}
	defer items.file.Close()
	lines := bufio.NewScanner(answer)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		moved()
		var line streamLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("the service's answer can't be read: %w", err)
		}
		switch {
		case line.Error != nil:
			p := &line.Error.problem
			p.Status, p.RetryAfter = line.Error.Status, time.Duration(line.RetryAfter)*time.Second
			return p
		case line.Recorded != nil && *line.Recorded != u.done:
			return fmt.Errorf("%w: the service says that %d commitments are recorded, and has signed for %d", errRefuted, *line.Recorded, u.done)
		case line.Recorded != nil:
			return nil
		}
		if err := u.group(line, items); err != nil {
			return err
		}
		moved()
	}
	if err := lines.Err(); err != nil {
		return because(ctx, err)
	}
	return fmt.Errorf("the answer ended before its end: %w", io.ErrUnexpectedEOF)
}

// group checks what the service has signed for a group, and keeps its receipts.
func (u *manyUpload) group(line streamLine, reader *itemReader) error {
	if line.Acknowledgement == nil || line.Offset != u.done || line.Count < 1 || line.Count > min(u.m.Count-u.done, calpe.MaxGroup) {
		return fmt.Errorf("%w: the service answers with %d commitments from %d of the upload, and %d of %d are next", errRefuted, line.Count, line.Offset, u.done, u.m.Count)
	}
	items, leaves := make([]stampItem, line.Count), make([]calpe.Hash, line.Count)
	for i := range items {
		var err error
		if items[i], err = reader.item(); err != nil {
			return err
		}
		entry := calpe.Entry{Index: line.First + uint64(i), Commitment: items[i].commitment}.Bytes()
		leaves[i] = merkle.LeafHash(entry[:])
	}
	receipts, err := u.receipts(line, items, merkle.NewTree(leaves))
	if err != nil {
		return err
	}
	// Crash here: the group is in the log; its salts are in the manifest, and the service repeats its answer.
	if err := u.keep(receipts, items); err != nil {
		return err
	}
	u.done += line.Count
	u.bar.add(int(line.Count))
	return nil
}

func (u *manyUpload) receipts(line streamLine, items []stampItem, tree *merkle.Tree) ([]receipt.Receipt, error) {
	note := []byte(line.Acknowledgement.Note)
	if line.Count == 1 { // its group may be others' too
		if err := checkAcknowledged(calpe.Entry{Index: line.First, Commitment: items[0].commitment}, receipt.Promise{Note: string(note), Path: line.Acknowledgement.Path}, u.id); err != nil {
			return nil, err
		}
	} else if promise, err := receipt.OpenAcknowledgement(note, u.id); err != nil {
		return nil, fmt.Errorf("%w: the service's acknowledgement doesn't hold: %w", errRefuted, err)
	} else if promise.First != line.First || promise.Count != line.Count || promise.Root != tree.Root() {
		return nil, fmt.Errorf("%w: the service's acknowledgement isn't about the %d commitments from %d of the upload", errRefuted, line.Count, line.Offset)
	}
	receipts := make([]receipt.Receipt, len(items))
	for i, item := range items {
		path := line.Acknowledgement.Path
		if line.Count > 1 {
			hashes, err := tree.InclusionPath(uint64(i))
			if err != nil {
				return nil, err
			}
			path = hashes
		}
		receipts[i] = receipt.Receipt{Type: receipt.ReceiptType, Log: u.id.Hash(), Digest: item.Digest, Salt: item.salt, Index: line.First + uint64(i),
			Acknowledgement: &receipt.Promise{Note: string(note), Path: append(receipt.Path{}, path...)}}
	}
	return receipts, nil
}
