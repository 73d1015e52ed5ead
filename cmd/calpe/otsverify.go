package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

type otsVerifyCommand struct {
	chainSource
	Depth  int    `aliases:"confirmations" help:"How many blocks must stand from the block to the tip, itself included; --confirmations is the same." default:"6"`
	Digest string `help:"The document's digest by the file's hash, instead of the document." placeholder:"HEX"`
	JSON   bool   `name:"json" help:"Print the report as JSON: {asked, answer, report}."`
	File   string `arg:"" help:"The document; - is the standard input. Not with --digest."`
	Proof  string `arg:"" optional:"" name:"file.ots" help:"Its .ots file."`
}

func (otsVerifyCommand) Help() string {
	return `Answers whether the document existed before a block of Bitcoin. It takes the document, its .ots file of any calendar, and Bitcoin's block headers: from a file (--headers), or from a node of yours (--node), whose headers are checked in the same way. One attestation that holds is enough. It contacts no calendar: bring the file up to date with "calpe ots upgrade" first.

Exit codes: 0 it holds; 1 refuted; 2 wrong usage, or a file or the node failed; 3 no block yet, or not deep enough.`
}

func (c *otsVerifyCommand) Run(ctx context.Context, a *app) error {
	if c.Digest != "" && c.Proof == "" {
		c.File, c.Proof = "", c.File
	}
	if c.Proof == "" || (c.Digest == "") == (c.File == "") {
		return errors.New("give the document and its .ots file, or --digest HEX and the .ots file")
	}
	if c.Depth < 1 {
		return errors.New("--depth must be at least 1")
	}
	if c.Headers == "" && c.Node == "" {
		return errors.New(needHeaders)
	}
	if _, err := c.parse(); err != nil {
		return err
	}
	data, err := readFile(c.Proof, int64(ots.MaxFile))
	if err != nil {
		return err
	}
	return c.verify(ctx, a, data)
}

// verify needs the flags checked. The data are those of the .ots file.
func (c *otsVerifyCommand) verify(ctx context.Context, a *app, data []byte) error {
	f, err := ots.Parse(data)
	if err != nil {
		return c.print(a, ots.Malformed(err))
	}
	chain, err := c.load(ctx, a, len(blocksOf(f.Timestamp())) > 0)
	if err != nil {
		return err
	}
	digest, err := c.digest(ctx, a, f)
	if err != nil {
		return err
	}
	return c.print(a, ots.Verify(ots.Input{File: f, Digest: digest, Headers: chain, Depth: c.Depth}))
}

// digest is the document's, by the file's hash.
func (c *otsVerifyCommand) digest(ctx context.Context, a *app, f ots.DetachedFile) ([]byte, error) {
	h := f.Hash().NewHash()
	if c.Digest == "" {
		return a.hashInputBy(ctx, c.File, h)
	}
	digest, err := hex.DecodeString(c.Digest)
	if err != nil || len(digest) != h.Size() {
		return nil, fmt.Errorf("--digest takes a %s of %d hexadecimal digits", f.Hash(), 2*h.Size())
	}
	return digest, nil
}

func (c *otsVerifyCommand) print(a *app, r ots.Report) error {
	got := r.Existed.Status
	if got == receipt.NotAsked { // as in answer: there is nothing for what is asked
		got = receipt.Refuted
	}
	what := shown(c.File)
	if c.Digest != "" {
		what = c.Digest
	}
	return a.printReport(c.JSON, fmt.Sprintf("%s with %s", what, shown(c.Proof)), []verdict{askExistence}, got, r)
}

// verifyOTS is for who gives verify a .ots file in place of a receipt.
func (c *verifyCommand) verifyOTS(ctx context.Context, a *app, data []byte) error {
	if slices.ContainsFunc(c.Require, func(name string) bool { return verdict(name) != askExistence }) {
		return fmt.Errorf("%s is an OpenTimestamps file, which proves existence alone: log and certification take the receipt", shown(c.Receipt))
	}
	o := otsVerifyCommand{chainSource: c.chainSource, Depth: c.Depth, JSON: c.JSON, File: c.File, Proof: c.Receipt}
	return o.verify(ctx, a, data)
}
