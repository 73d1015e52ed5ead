package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/calpe/calpe"
)

// A document above a size is sent in pieces (tus 1.0): a line that breaks, or a
// process that is killed, costs what the service hasn't stored yet, and no more.

const (
	uploadsPath  = "v1/uploads"
	tusVersion   = "1.0.0"
	tusPieceType = "application/offset+octet-stream"
)

// piecesAnswer is how far an upload has come, as the service says.
type piecesAnswer struct {
	Size     int64         `json:"size"`
	Received int64         `json:"received"`
	Document *uploadAnswer `json:"document"`
}

// errNoPieces: the service takes documents whole only.
var errNoPieces = errors.New("the service doesn't take documents in pieces")

// piecewise is one document on its way in pieces.
type piecewise struct {
	uploader
	doc     document
	pending *pending
	meter   meter
	shown   int64 // what the meter shows
	doubt   bool  // a request had no answer, and may have recorded the document
}

// postPieces sends the document in pieces, and takes an earlier run up where it ended.
func (u uploader) postPieces(ctx context.Context, doc document, p *pending) (uploadAnswer, error) {
	w := &piecewise{uploader: u, doc: doc, pending: p, meter: u.a.meter("send "+filepath.Base(doc.path), doc.size)}
	defer w.meter.done()
	answer, err := w.run(ctx)
	if refusal, ok := errors.AsType[*problem](err); ok {
		refusal.Doubt = refusal.Doubt || w.doubt
	}
	return answer, err
}

// run sends until all is there. Failures in a row without progress are bounded.
func (w *piecewise) run(ctx context.Context) (uploadAnswer, error) {
	failures, furthest := 0, int64(-1)
	for {
		state, err := w.state(ctx)
		if err != nil {
			return uploadAnswer{}, err
		}
		if state.Document != nil {
			return *state.Document, nil
		}
		if state.Received > furthest {
			failures, furthest = 0, state.Received
		}
		err = w.send(ctx, state.Received)
		if err == nil {
			continue
		}
		failures++
		delay, again := w.s.retryDelay(err, failures)
		if p, ok := errors.AsType[*problem](err); ok {
			w.doubt = w.doubt || p.Status >= 500
			again = again || failures < maxAttempts && (p.Code == calpe.CodeOffset || p.Code == calpe.CodeLocked || p.Code == calpe.CodeNotFound)
			delay = max(delay, p.RetryAfter)
		} else {
			w.doubt = true
		}
		if !again || ctx.Err() != nil {
			return uploadAnswer{}, fmt.Errorf("upload: %w", err)
		}
		w.s.notice("upload: %s; going on in %v", briefly(err), delay.Round(100*time.Millisecond))
		if err := w.s.wait(ctx, delay); err != nil {
			return uploadAnswer{}, fmt.Errorf("upload: %w", err)
		}
	}
}

// state asks how far the upload has come, and begins it if there is none.
func (w *piecewise) state(ctx context.Context) (piecesAnswer, error) {
	if w.pending.Upload == "" {
		if err := w.begin(ctx); err != nil {
			return piecesAnswer{}, err
		}
	}
	var state piecesAnswer
	err := w.s.getJSON(ctx, "ask how far the upload has come", w.pending.Upload, nil, &state)
	if p, ok := errors.AsType[*problem](err); ok && p.Status == http.StatusNotFound {
		w.s.notice("upload: the service has given up what it had of it; beginning anew")
		if err := w.begin(ctx); err != nil {
			return piecesAnswer{}, err
		}
		return piecesAnswer{Size: w.doc.size}, nil
	}
	if err == nil && (state.Size != w.doc.size || state.Received < 0 || state.Received > state.Size) {
		err = fmt.Errorf("%w: the service has an upload of %d bytes at %d, the file has %d", errRefuted, state.Size, state.Received, w.doc.size)
	}
	return state, err
}

// begin makes place at the service, and remembers where.
func (w *piecewise) begin(ctx context.Context) error {
	metadata, err := w.metadata()
	if err != nil {
		return err
	}
	header := http.Header{}
	header.Set("Tus-Resumable", tusVersion)
	header.Set("Upload-Length", strconv.FormatInt(w.doc.size, 10))
	header.Set("Upload-Metadata", metadata)
	header.Set("Idempotency-Key", w.pending.Key)
	var location string
	_, err = w.s.do(ctx, call{what: "begin the upload", method: http.MethodPost, path: uploadsPath, header: header, limit: maxAnswer,
		got: func(h http.Header) { location = h.Get("Location") }})
	if p, ok := errors.AsType[*problem](err); ok && (p.Status == http.StatusNotFound || p.Status == http.StatusMethodNotAllowed) {
		return errNoPieces
	}
	if err != nil {
		return err
	}
	_, id, found := strings.Cut(location, "/"+uploadsPath+"/")
	if _, err := calpe.ParseDocumentID(id); !found || err != nil {
		return fmt.Errorf("begin the upload: the service gives an address that can't be read, %q", clip(location))
	}
	w.pending.Upload = uploadsPath + "/" + id
	// Crash here: the service has an upload that nobody goes on with, and gives it up.
	return w.pending.save()
}

// metadata is what Upload-Metadata says of the document.
func (w *piecewise) metadata() (string, error) {
	mediaType, err := mediaTypeOf(w.doc.path)
	if err != nil {
		return "", err
	}
	pairs := []string{"filename", sentName(filepath.Base(w.doc.path)), "filetype", mediaType, "sha256", w.doc.digest.String()}
	if w.certification != nil {
		pairs = append(pairs, "certification", string(w.certification.Bytes()))
	}
	var text []string
	for i := 0; i < len(pairs); i += 2 {
		text = append(text, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(text, ","), nil
}

// send makes one attempt to send all from offset on.
func (w *piecewise) send(ctx context.Context, offset int64) error {
	header := http.Header{}
	header.Set("Tus-Resumable", tusVersion)
	header.Set("Content-Type", tusPieceType)
	header.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	w.meter.add(int(offset - w.shown))
	w.shown = offset
	_, err := w.s.once(ctx, call{what: "upload", method: http.MethodPatch, path: w.pending.Upload, header: header, limit: maxAnswer,
		body: func() (io.ReadCloser, int64, error) { return w.rest(ctx, offset) }})
	return err
}

// rest opens the document at offset.
func (w *piecewise) rest(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	f, err := os.Open(w.doc.path)
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	content := &meteredReader{ctx: ctx, r: &exactly{f, w.doc.size - offset}, meter: w.meter, read: &w.shown}
	return struct {
		io.Reader
		io.Closer
	}{content, f}, w.doc.size - offset, nil
}
