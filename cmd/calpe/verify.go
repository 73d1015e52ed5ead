package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/ots"
)

type verifyCommand struct {
	chainSource
	pinning
	Depth   int      `help:"How many blocks must stand from the receipt's block to the tip, itself included." default:"6"`
	Require []string `help:"The verdicts that decide the exit code, out of existence, log, certification. Default: existence; log, if an identity is pinned; certification, if also the receipt has one." placeholder:"VERDICT,…"`
	JSON    bool     `name:"json" help:"Print the report as JSON: {asked, answer, report}."`
	File    string   `arg:"" help:"The document; - is the standard input."`
	Receipt string   `arg:"" help:"Its receipt, or a .ots file."`
}

func (verifyCommand) Help() string {
	return `Answers three questions: did the document exist before a block of Bitcoin (existence); is it in the log whose identity is pinned (log); did an agency registered in that log certify it (certification).

It takes the document, the receipt and Bitcoin's block headers: from a file (--headers), or from a node of yours (--node), whose headers are checked in the same way. On mainnet a file is much faster: a node is asked for every single header. It never contacts the service. Without --identity it says that the document existed, and that the issuer is unknown.

Exit codes: 0 all asked verdicts hold; 1 one is refuted; 2 wrong usage, or a file can't be read as what it should be, or the node failed; 3 not anchored yet, or not deep enough.`
}

// verdict is one of the three questions.
type verdict string

const (
	askExistence     verdict = "existence"
	askLog           verdict = "log"
	askCertification verdict = "certification"
)

func (v verdict) of(r receipt.Report) receipt.Verdict {
	switch v {
	case askLog:
		return r.InLog
	case askCertification:
		return r.Certified
	default:
		return r.Existed
	}
}

const needHeaders = `verifying existence takes Bitcoin's block headers. Give one of
  --headers FILE   a file of them; "calpe headers --node URL FILE" makes one from any Bitcoin node
  --node URL       your own Bitcoin node (btcd or Bitcoin Core, pruned is enough)`

func (c *verifyCommand) Run(ctx context.Context, a *app) error {
	id, err := c.pinned()
	if err != nil {
		return err
	}
	required, err := c.required(id)
	if err != nil {
		return err
	}
	if _, err := c.parse(); err != nil {
		return err
	}
	if c.File == "-" && c.Receipt == "-" {
		return errors.New("only one of document and receipt can be the standard input")
	}
	data, err := c.readProof(a)
	if err != nil {
		return err
	}
	if ots.IsFile(data) {
		return c.verifyOTS(ctx, a, data)
	}
	r, err := receipt.Decode(data)
	if err != nil && c.swapped() {
		return fmt.Errorf("%s is a receipt, and %s isn't one: the document comes first, the receipt second", shown(c.File), shown(c.Receipt))
	}
	if err != nil && !claimsToBeReceipt(data) {
		return unreadable(c.Receipt, err)
	}
	if err != nil {
		return c.print(a, ask(required, id, r), receipt.Malformed(err))
	}
	asked := ask(required, id, r)
	_, _, anchored := r.Place()
	chain, err := c.load(ctx, a, anchored && slices.Contains(asked, askExistence))
	if err != nil {
		return err
	}
	digest, err := a.hashInput(ctx, c.File)
	if err != nil {
		return err
	}
	return c.print(a, asked, receipt.Verify(receipt.Input{Digest: digest, Receipt: r, Headers: chain, Identity: id, Depth: c.Depth}))
}

// claimsToBeReceipt reports whether data is JSON with the type of a receipt. If
// so and it isn't one, then it was made or changed by somebody, and is refuted.
func claimsToBeReceipt(data []byte) bool {
	var head struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(data, &head) == nil && head.Type == receipt.ReceiptType
}

// unreadable is the error for a file that is cut off, garbled, or something else
// than a receipt. That says nothing of any document.
func unreadable(path string, err error) error {
	return fmt.Errorf("%s can't be read as a receipt, so it proves nothing and refutes nothing: %w", shown(path), err)
}

// swapped reports whether the receipt is where the document should be: what
// isn't a receipt, in its place, is then a slip and refutes nothing.
func (c *verifyCommand) swapped() bool {
	if c.File == "-" {
		return false
	}
	data, err := readFile(c.File, receipt.MaxSize)
	if err != nil {
		return false
	}
	_, err = receipt.Decode(data)
	return err == nil || ots.IsFile(data)
}

// required checks the flags that say what is asked, before anything is read.
func (c *verifyCommand) required(id *receipt.Identity) ([]verdict, error) {
	if c.Depth < 1 {
		return nil, errors.New("--depth must be at least 1")
	}
	var asked []verdict
	for _, name := range c.Require {
		v := verdict(name)
		if v != askExistence && v != askLog && v != askCertification {
			return nil, fmt.Errorf("--require: %q is not one of existence, log, certification", name)
		}
		if v != askExistence && id == nil {
			return nil, fmt.Errorf("--require %s takes --identity FILE: without it the issuer is unknown", name)
		}
		asked = append(asked, v)
	}
	if (len(asked) == 0 || slices.Contains(asked, askExistence)) && c.Headers == "" && c.Node == "" {
		return nil, errors.New(needHeaders)
	}
	return asked, nil
}

// ask is what decides: what is required, or what can be answered by default.
func ask(required []verdict, id *receipt.Identity, r receipt.Receipt) []verdict {
	if len(required) > 0 {
		return required
	}
	asked := []verdict{askExistence}
	if id != nil {
		asked = append(asked, askLog)
		if r.Certification != nil {
			asked = append(asked, askCertification)
		}
	}
	return asked
}

// readProof reads the receipt, or what is in its place: a .ots file is smaller.
func (c *verifyCommand) readProof(a *app) ([]byte, error) {
	if c.Receipt == "-" {
		return readLimited(a.Stdin, "standard input", receipt.MaxSize)
	}
	return readFile(c.Receipt, receipt.MaxSize)
}

// chainSource is where a chain of headers comes from, and what it must be.
type chainSource struct {
	nodeFlags
	chainRules
	Headers string `help:"File of Bitcoin's block headers, see \"calpe headers\". With it no node is asked." variable:"CALPE_HEADERS" placeholder:"FILE"`
}

// load gives the verified chain, which is as demanded; nil if none was given. A
// node, which has to be asked for every header, is asked only if that is needed.
func (s chainSource) load(ctx context.Context, a *app, needed bool) (*headers.Chain, error) {
	demands, err := s.parse()
	if err != nil {
		return nil, err
	}
	var chain *headers.Chain
	switch {
	case s.Headers != "":
		chain, err = readHeaders(s.Headers)
	case s.Node != "" && needed:
		chain, err = s.fetch(ctx, a)
	}
	if chain == nil || err != nil {
		return nil, err
	}
	return chain, demands.check(chain)
}

func (s chainSource) fetch(ctx context.Context, a *app) (*headers.Chain, error) {
	node, err := s.open()
	if err != nil {
		return nil, err
	}
	defer node.Close()
	return a.nodeChain(ctx, node)
}

// readHeaders reads a file of headers of whichever network it is: that is what
// the caller trusts.
func readHeaders(path string) (*headers.Chain, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	first := make([]byte, headers.HeaderSize)
	if _, err := io.ReadFull(f, first); err != nil {
		return nil, fmt.Errorf("%s is not a file of block headers: it ends within the first one", shown(path))
	}
	genesis, err := headers.Parse(first)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(path), err)
	}
	params, err := paramsOf(calpe.BlockHash(genesis.Hash))
	if err != nil {
		return nil, fmt.Errorf("%s is not a file of block headers: %w", shown(path), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read %s: %w", shown(path), err)
	}
	chain, err := headers.Read(f, params)
	if errors.Is(err, headers.ErrTooLittleWork) {
		return nil, fmt.Errorf("%s is incomplete: run \"calpe headers\" to extend it: %w", shown(path), err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(path), err)
	}
	return chain, nil
}

// nodeChain fetches all headers from a node, and verifies them as those of a file.
func (a *app) nodeChain(ctx context.Context, n node) (*headers.Chain, error) {
	genesis, err := n.BlockHash(ctx, 0)
	if err != nil {
		return nil, err
	}
	params, err := paramsOf(genesis)
	if err != nil {
		return nil, fmt.Errorf("the node's %w", err)
	}
	chain, err := genesisChain(params)
	if err != nil {
		return nil, err
	}
	progress, done := a.fetchProgress()
	chain, err = syncer{node: n, progress: progress}.run(ctx, chain)
	done()
	if err == nil && !chain.EnoughWork() {
		err = fmt.Errorf("the node is still syncing: %w", headers.ErrTooLittleWork)
	}
	return chain, err
}

// answer puts the asked verdicts together: refuted if one is, or if it is
// required and the receipt has nothing for it; else not yet if one is.
func answer(asked []verdict, r receipt.Report) receipt.Status {
	got := receipt.Holds
	for _, v := range asked {
		switch v.of(r).Status {
		case receipt.Refuted, receipt.NotAsked:
			return receipt.Refuted
		case receipt.NotYet:
			got = receipt.NotYet
		case receipt.Holds:
		}
	}
	return got
}

func (c *verifyCommand) print(a *app, asked []verdict, r receipt.Report) error {
	return a.printReport(c.JSON, fmt.Sprintf("%s with %s", shown(c.File), shown(c.Receipt)), asked, answer(asked, r), r)
}

// report is what one of the verifiers found.
type report interface {
	WriteText(w io.Writer) error
}

// printReport prints a report and the answer to what was asked, and gives the
// exit code.
func (a *app) printReport(asJSON bool, title string, asked []verdict, got receipt.Status, r report) error {
	var err error
	if asJSON {
		enc := json.NewEncoder(a.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(struct {
			Asked  []verdict      `json:"asked"`
			Answer receipt.Status `json:"answer"`
			Report report         `json:"report"`
		}{asked, got, r})
	} else {
		err = a.printReportText(title, asked, got, r)
	}
	if err != nil {
		return err
	}
	switch got {
	case receipt.Holds:
		return nil
	case receipt.NotYet:
		return reported(exitNotYet)
	default:
		return reported(exitRefuted)
	}
}

func (a *app) printReportText(title string, asked []verdict, got receipt.Status, r report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", title)
	if err := r.WriteText(&b); err != nil {
		return err
	}
	names := make([]string, len(asked))
	for i, v := range asked {
		names[i] = string(v)
	}
	words := map[receipt.Status]string{receipt.Holds: "HOLDS", receipt.NotYet: "NOT YET", receipt.Refuted: "REFUTED"}
	fmt.Fprintf(&b, "Answer: %s (asked: %s)\n", words[got], strings.Join(names, ", "))
	_, err := io.WriteString(a.Stdout, clean(b.String()))
	return err
}
