package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

type findCommand struct {
	connection
	pinning
	JSON   bool     `name:"json" help:"Print the answers as JSON, one after the other: {asked, found, …}."`
	Digest string   `help:"Look for this SHA-256 instead of a file." placeholder:"HEX"`
	Code   string   `help:"Look for the document with this code, as in K7QM-4TZP-9XHD-2V6R-WEW8." placeholder:"CODE"`
	Files  []string `arg:"" optional:"" name:"file" help:"Document to look for; - is the standard input."`
}

func (findCommand) Help() string {
	return `For those who have the document, or the code of a paper copy, but no receipt. Says whether the service has recorded it, when, in what state, and who certified it. Needs no token. Of a file only its SHA-256 is sent; a service limits how often it answers.

What it prints is the word of the service. A receipt is proof: its owner can get one.

Documents that were stamped by hash only can't be found: the service never saw their digest.

Exit codes: 0 found; 1 the service has no such document; 2 wrong usage, or a file or the service failed. Of several files, the worst counts, in the order 1, 2, 0.`
}

// sought is one thing to look for.
type sought struct {
	File   string         `json:"file,omitempty"`
	Digest *calpe.Digest  `json:"digest,omitempty"`
	Code   calpe.FindCode `json:"code,omitzero"`
}

func (s sought) String() string {
	switch {
	case s.File != "":
		return shown(s.File)
	case s.Digest != nil:
		return s.Digest.String()
	}
	return s.Code.String()
}

func (s sought) query() url.Values {
	if s.Digest != nil {
		return url.Values{"digest": {s.Digest.String()}}
	}
	return url.Values{"code": {s.Code.String()}}
}

// findAnswer is what the service says.
type findAnswer struct {
	Log     calpe.Hash      `json:"log,omitzero"`
	Origin  string          `json:"origin,omitempty"`
	Network calpe.Network   `json:"network,omitempty"`
	Found   []foundDocument `json:"found"`
	More    bool            `json:"more,omitempty"`
}

// findReport is what is printed.
type findReport struct {
	Asked sought `json:"asked"`
	findAnswer
}

type foundDocument struct {
	Index       uint64       `json:"index"`
	State       calpe.State  `json:"state"`
	Received    time.Time    `json:"received"`
	CertifiedBy string       `json:"certified_by,omitempty"`
	Anchor      *foundAnchor `json:"anchor,omitempty"`
}

type foundAnchor struct {
	Height uint32          `json:"height"`
	Block  calpe.BlockHash `json:"block"`
	Time   time.Time       `json:"time"`
	TxID   calpe.BlockHash `json:"txid"`
}

func (c *findCommand) Run(ctx context.Context, a *app) error {
	ways := 0
	for _, given := range []bool{len(c.Files) > 0, c.Digest != "", c.Code != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("give files to look for, or one --digest, or one --code")
	}
	id, err := c.pinned()
	if err != nil {
		return err
	}
	s, err := c.open(a, "")
	if err != nil {
		return err
	}
	names := c.Files
	if len(names) == 0 {
		names = []string{""}
	}
	return each(ctx, a, names, func(name string) error {
		what, err := c.sought(ctx, a, name)
		if err != nil {
			return err
		}
		return c.find(ctx, a, s, id, what)
	})
}

// sought says what to look for: the digest of the file, or of the flag, or the
// code. A code that was mistyped isn't sent.
func (c *findCommand) sought(ctx context.Context, a *app, file string) (sought, error) {
	switch {
	case c.Code != "":
		code, err := calpe.ParseFindCode(c.Code)
		if err != nil {
			return sought{}, fmt.Errorf("--code: %w", err)
		}
		return sought{Code: code}, nil
	case c.Digest != "":
		digest, err := calpe.ParseDigest(strings.ToLower(c.Digest)) // some tools print it in capitals
		if err != nil {
			return sought{}, fmt.Errorf("--digest: %w", err)
		}
		return sought{Digest: &digest}, nil
	}
	digest, err := a.hashInput(ctx, file)
	return sought{File: file, Digest: &digest}, err
}

func (c *findCommand) find(ctx context.Context, a *app, s *service, id *receipt.Identity, what sought) error {
	var answer findAnswer
	err := s.getJSON(ctx, "find", "v1/find", what.query(), &answer)
	if p, ok := errors.AsType[*problem](err); ok && p.Status == http.StatusNotFound && p.Code == calpe.CodeNotFound {
		if err := c.print(a.Stdout, findReport{what, findAnswer{Found: []foundDocument{}}}); err != nil {
			return err
		}
		return reported(exitRefuted)
	}
	if err == nil {
		err = answer.check(id)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return c.print(a.Stdout, findReport{what, answer})
}

// check refuses an answer that says nothing, or is of another log than the
// pinned one. Neither means that there is no such document.
func (f findAnswer) check(id *receipt.Identity) error {
	switch {
	case len(f.Found) == 0:
		return errors.New("the service's answer can't be read: it has found nothing, and doesn't say so")
	case id != nil && id.Hash() != f.Log:
		return fmt.Errorf("the service answers from the log %s, the pinned identity is %s", f.Log, id.Hash())
	}
	return nil
}

func (c *findCommand) print(w io.Writer, report findReport) error {
	if c.JSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	_, err := io.WriteString(w, clean(report.text()))
	return err
}

// text is the answer in plain words.
func (f findReport) text() string {
	if len(f.Found) == 0 {
		return fmt.Sprintf("%s: not found: the service has no such document, or has erased it, or got only its commitment\n", f.Asked)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: found in the log %s\n", f.Asked, clip(f.Origin))
	for _, d := range f.Found {
		fmt.Fprintf(&b, "  entry %d: received %s, %s", d.Index, d.Received.UTC().Format(time.DateTime+" MST"), certifier(d.CertifiedBy))
		fmt.Fprintf(&b, "; %s\n", d.progress(f.Network))
	}
	if f.More {
		b.WriteString("  … and older ones\n")
	}
	b.WriteString("  This is what the service says. The owner's receipt proves it.\n")
	return b.String()
}

func certifier(agency string) string {
	if agency == "" {
		return "not certified by an agency"
	}
	return "certified by " + clip(agency)
}

// progress says how far the document has come, and what that is worth.
func (d foundDocument) progress(network calpe.Network) string {
	if d.Anchor == nil {
		return d.State.String() + ", not anchored in Bitcoin yet"
	}
	text := fmt.Sprintf("%s, in block %d of %s, of %s", d.State, d.Anchor.Height, network, d.Anchor.Time.UTC().Format(time.DateTime+" MST"))
	if network.IsTest() {
		text += " (a test network: no evidential value)"
	}
	return text
}
