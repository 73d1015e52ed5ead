package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

type uploadCommand struct {
	connection
	credentials
	pinning
	waiting
	Certification string   `help:"Certification by an agency, as \"calpe certify\" writes it, to be notarized with the document." placeholder:"FILE"`
	Resumable     int64    `help:"Send a file of this many bytes or more in pieces: after a cut, or when the command is run again, it goes on where it was. 0: send every file whole." default:"33554432" placeholder:"BYTES"`
	Files         []string `arg:"" name:"file" help:"Document to notarize."`
}

func (uploadCommand) Help() string {
	return `For each FILE it writes FILE.receipt.json, once the service's signed acknowledgement has been checked. A file that has a receipt already is not sent again; its receipt is brought up to date. If something goes wrong, run the same command again: FILE.upload-pending.json remembers the request, so that nothing is recorded twice, and a large file (see --resumable) goes on where it was, within the time that the service keeps its pieces (20 hours, unless it says otherwise).

All files are tried. The exit code says the worst that happened.`
}

func (c *uploadCommand) Run(ctx context.Context, a *app) error {
	if c.Certification != "" && len(c.Files) != 1 {
		return errors.New("--certification is of one document: give one file with it")
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	certification, err := c.certification()
	if err != nil {
		return err
	}
	s, err := c.open(a, token)
	if err != nil {
		return err
	}
	id, err := c.identity(ctx, s)
	if err != nil {
		return err
	}
	u := uploader{a: a, s: s, id: id, certification: certification, resumable: c.Resumable}
	return notarizeAll(ctx, a, s, c.waiting, c.Files, u.upload)
}

func (c *uploadCommand) certification() (*statement.Signed, error) {
	if c.Certification == "" {
		return nil, nil
	}
	data, err := readFile(c.Certification, statement.MaxSize)
	if err != nil {
		return nil, err
	}
	signed, err := statement.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(c.Certification), err)
	}
	if _, ok := signed.Body().(statement.Certification); !ok {
		return nil, fmt.Errorf("%s is a statement of the type %s, not a certification", shown(c.Certification), signed.Body().Type())
	}
	return &signed, nil
}

// notarizeAll records every file, then waits for every one of them: their states
// advance together.
func notarizeAll(ctx context.Context, a *app, s *service, w waiting, names []string, record func(context.Context, string) (*receiptFile, error)) error {
	type done struct {
		name string
		file *receiptFile
	}
	var recorded []done
	err := each(ctx, a, names, func(name string) error {
		f, err := record(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", shown(name), err)
		}
		recorded = append(recorded, done{name, f})
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return err
	}
	followed := each(ctx, a, recorded, func(d done) error {
		var err error
		if w.Wait > d.file.state || d.file.state == 0 || !holds(d.file.r, w.Wait) {
			err = w.follow(ctx, a, s, d.file)
		}
		return errors.Join(err, d.file.report(a, d.name))
	})
	if code := worse(exitCode(err), exitCode(followed)); code != exitOK {
		return reported(code)
	}
	return nil
}

type uploader struct {
	a             *app
	s             *service
	id            receipt.Identity
	certification *statement.Signed // nil if there is none
	resumable     int64             // bytes from which on a file is sent in pieces; 0: never
}

// uploadAnswer is what the service says of a document that it has recorded.
type uploadAnswer struct {
	ID              calpe.DocumentID `json:"id"`
	Index           uint64           `json:"index"`
	State           calpe.State      `json:"state"`
	Code            string           `json:"code"` // for people, who give it back as --code
	Size            int64            `json:"size"`
	Digest          calpe.Digest     `json:"digest"`
	Acknowledgement *receipt.Promise `json:"acknowledgement"`
}

// upload brings one file to where its receipt is durable.
func (u uploader) upload(ctx context.Context, path string) (*receiptFile, error) {
	doc, err := u.a.hashDocument(ctx, path)
	if err != nil {
		return nil, err
	}
	want := pending{Server: u.s.base.String(), Digest: doc.digest}
	if u.certification != nil {
		if about := u.certification.Body().(statement.Certification).Digest; about != doc.digest {
			return nil, fmt.Errorf("the certification is of another document: its digest is %s, the file's is %s", about, doc.digest)
		}
		want.Certification = new(u.certification.Digest())
	}
	file := &receiptFile{path: path + ".receipt.json", id: u.id}
	pendingPath := path + ".upload-pending.json"
	if there, err := file.resume(doc.digest, want.Certification, pendingPath); there || err != nil {
		return file, err
	}
	p, err := begin(pendingPath, want)
	if err != nil {
		return nil, err
	}
	answer, err := u.send(ctx, doc, &p)
	if err != nil {
		return nil, p.drop(err)
	}
	// Crash here: the document is recorded. The next run sends the same key and gets the same answer.
	if file.r, err = u.fetchReceipt(ctx, doc, answer); err != nil {
		return nil, err
	}
	file.state, file.code = answer.State, answer.Code
	if err := writeReceipt(file.path, file.r); err != nil {
		return nil, err
	}
	// Crash here: the receipt is durable. The next run finds it, and removes the pending file.
	return file, p.end()
}

// resume finds the receipt of an earlier run. It is an error if that is of
// another document or log: it would be lost.
func (f *receiptFile) resume(digest calpe.Digest, certification *calpe.Digest, pendingPath string) (bool, error) {
	there, err := exists(f.path)
	if err != nil || !there {
		return false, err
	}
	if f.r, err = readReceipt(f.path); err != nil {
		return true, fmt.Errorf("there is a receipt already, which can't be read: %w", err)
	}
	switch {
	case f.r.Digest != digest:
		return true, fmt.Errorf("%s is the receipt of other contents: the file was changed since. Move the receipt away, with a copy of those contents, to notarize it anew", shown(f.path))
	case f.r.Log != f.id.Hash():
		return true, fmt.Errorf("%s is a receipt from another log, %s: move it away to notarize the file with %s too", shown(f.path), f.r.Log, f.id.Origin)
	case certification != nil && (f.r.Certification == nil || f.r.Certification.Statement.Digest() != *certification):
		return true, fmt.Errorf("%s is a receipt without that certification: move it away to notarize the file anew", shown(f.path))
	}
	return true, pending{path: pendingPath}.end()
}

// send sends the document, and checks that the answer is about it.
func (u uploader) send(ctx context.Context, doc document, p *pending) (answer uploadAnswer, err error) {
	if u.resumable > 0 && doc.size >= u.resumable {
		answer, err = u.postPieces(ctx, doc, p)
	} else {
		err = errNoPieces
	}
	if errors.Is(err, errNoPieces) {
		answer, err = u.post(ctx, doc, *p)
	}
	if err != nil {
		return uploadAnswer{}, err
	}
	if answer.Digest != doc.digest || answer.Size != doc.size || answer.Acknowledgement == nil {
		return uploadAnswer{}, fmt.Errorf("%w: the service answers for another document, or without an acknowledgement: digest %s and %d bytes, the file has %s and %d",
			errRefuted, answer.Digest, answer.Size, doc.digest, doc.size)
	}
	return answer, nil
}

// post sends the document as one stream.
func (u uploader) post(ctx context.Context, doc document, p pending) (uploadAnswer, error) {
	what := "upload"
	form, err := u.form(doc)
	if err != nil {
		return uploadAnswer{}, err
	}
	header := http.Header{}
	header.Set("Content-Type", form.contentType)
	header.Set("Idempotency-Key", p.Key)
	data, err := u.s.do(ctx, call{what: what, method: http.MethodPost, path: "v1/documents", header: header, limit: maxAnswer,
		body: func() (io.ReadCloser, int64, error) { return u.body(ctx, doc, form) }})
	if err != nil {
		return uploadAnswer{}, err
	}
	var answer uploadAnswer
	return answer, decodeAnswer(what, data, &answer)
}

// form is a multipart body without the document: what stands before and behind.
type form struct {
	contentType string
	head, tail  []byte
}

func (u uploader) form(doc document) (form, error) {
	mediaType, err := mediaTypeOf(doc.path)
	if err != nil {
		return form{}, err
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if u.certification != nil {
		part, err := w.CreatePart(partHeader("certification", "", "application/json"))
		if err != nil {
			return form{}, err
		}
		if _, err := part.Write(u.certification.Bytes()); err != nil {
			return form{}, err
		}
	}
	h := partHeader("document", sentName(filepath.Base(doc.path)), mediaType)
	h.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(doc.digest[:])+":") // RFC 9530
	if _, err := w.CreatePart(h); err != nil {
		return form{}, err
	}
	head := slices.Clone(b.Bytes())
	b.Reset()
	if err := w.Close(); err != nil {
		return form{}, err
	}
	return form{w.FormDataContentType(), head, b.Bytes()}, nil
}

// partHeader is that of a part as RFC 7578 wants it: the name in UTF-8 as it
// is, not in the form of RFC 8187.
func partHeader(field, name, mediaType string) textproto.MIMEHeader {
	disposition := `form-data; name="` + field + `"`
	if name != "" {
		disposition += `; filename="` + strings.ReplaceAll(name, `"`, `\"`) + `"`
	}
	return textproto.MIMEHeader{"Content-Disposition": {disposition}, "Content-Type": {mediaType}}
}

// mediaTypeOf goes by the name's ending, else by the first bytes.
func mediaTypeOf(path string) (string, error) {
	if t := mime.TypeByExtension(filepath.Ext(path)); t != "" {
		return t, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	start, err := io.ReadAll(io.LimitReader(f, 512))
	return http.DetectContentType(start), err
}

// body opens the document anew and puts the form around it. A file that has
// become shorter ends the attempt; one that has other bytes is refused by the
// service, which has its digest.
func (u uploader) body(ctx context.Context, doc document, form form) (io.ReadCloser, int64, error) {
	f, err := os.Open(doc.path)
	if err != nil {
		return nil, 0, err
	}
	meter := u.a.meter("send "+filepath.Base(doc.path), doc.size)
	content := &meteredReader{ctx: ctx, r: &exactly{f, doc.size}, meter: meter}
	return &formBody{io.MultiReader(bytes.NewReader(form.head), content, bytes.NewReader(form.tail)), f, meter},
		int64(len(form.head)) + doc.size + int64(len(form.tail)), nil
}

type formBody struct {
	io.Reader
	file  *os.File
	meter meter
}

func (b *formBody) Close() error {
	b.meter.done()
	return b.file.Close()
}

// exactly reads so many bytes, and fails if there are fewer.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		return n, fmt.Errorf("%w: the file became shorter while it was sent", errLocal)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// fetchReceipt gets the receipt and checks it, and with the salt in it the
// acknowledgement that came with the answer.
func (u uploader) fetchReceipt(ctx context.Context, doc document, answer uploadAnswer) (receipt.Receipt, error) {
	what := "get the receipt"
	data, err := u.s.do(ctx, call{what: what, method: http.MethodGet, path: "v1/documents/" + answer.ID.String() + "/receipt", limit: receipt.MaxSize})
	if err != nil {
		return receipt.Receipt{}, err
	}
	r, err := receipt.Decode(data)
	if err != nil {
		return receipt.Receipt{}, fmt.Errorf("%s: %w: %w", what, errRefuted, err)
	}
	if r.Index != answer.Index {
		return receipt.Receipt{}, fmt.Errorf("%w: the receipt is for entry %d, the service recorded the document as entry %d", errRefuted, r.Index, answer.Index)
	}
	if err := checkAcknowledged(entryOf(r.Index, doc.digest, r.Salt), *answer.Acknowledgement, u.id); err != nil {
		return receipt.Receipt{}, err
	}
	got, want := r.Certification, u.certification
	if (got == nil) != (want == nil) || got != nil && got.Statement.Digest() != want.Digest() {
		return receipt.Receipt{}, fmt.Errorf("%w: the receipt has another certification than was sent", errRefuted)
	}
	return r, check(r, doc.digest, u.id)
}

func checkAcknowledged(entry calpe.Entry, promise receipt.Promise, id receipt.Identity) error {
	if _, err := receipt.VerifyAcknowledged(entry, []byte(promise.Note), promise.Path, id); err != nil {
		return fmt.Errorf("%w: the service's acknowledgement doesn't hold: %w", errRefuted, err)
	}
	return nil
}
