package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/calpe/calpe/deploy/devstack/internal/dev"
)

// trial is one call of "calpe verify", and how it must end.
type trial struct {
	file, receipt string
	anybody       bool // no identity is pinned
	code          int
	want          verdicts
	because       string
}

// verdictIndent is where "calpe verify" begins its sentences.
const verdictIndent = 23

// verdicts are the answers to the three questions: a status and, if it isn't
// "holds", a reason.
type verdicts struct{ existed, inLog, certified string }

func (d *demo) verify(ctx context.Context) error {
	d.p.act("Receipts are verified, offline", "Each with the document, the receipt, the headers and the identity, and nothing else.")
	certified := verdicts{"holds", "holds", "holds"}
	plain := verdicts{"holds", "holds", "not-asked no-certification"}
	return d.trials(ctx, []trial{
		{file: birthCertificate, want: certified, because: "all three questions are answered"},
		{file: surveyScan, want: plain, because: "a document of " + sizeText(d.cfg.BigSize) + ", by a proof as small as the others"},
		{file: shortNote, want: plain, because: "a document of one line"},
		{file: privateContract, want: plain, because: "a document that the service has never seen"},
	})
}

// refuse shows what must not pass.
func (d *demo) refuse(ctx context.Context) error {
	d.p.act("What isn't true is refused", "The same program, with things changed by us.")
	d.at = "tamper"
	flipped, err := flipByte(filepath.Join(d.docs, birthCertificate), filepath.Join(d.docs, "tampered.pdf"))
	if err != nil {
		return err
	}
	salted, err := changeSalt(filepath.Join(d.docs, receiptOf(shortNote)), filepath.Join(d.docs, "tampered.receipt.json"))
	if err != nil {
		return err
	}
	return d.trials(ctx, []trial{
		{
			file: "tampered.pdf", receipt: receiptOf(birthCertificate), code: 1,
			want:    verdicts{"refuted other-document", "refuted other-document", "refuted other-document"},
			because: "the document was changed, " + flipped,
		},
		{
			file: shortNote, receipt: "tampered.receipt.json", code: 1,
			want:    verdicts{"refuted not-in-tree", "refuted not-in-tree", "not-asked no-certification"},
			because: "the receipt was changed, " + salted,
		},
		{
			file: elsewhereNote, code: 1,
			want:    verdicts{"holds", "refuted other-log", "not-asked no-certification"},
			because: "the receipt is genuine, but of somebody else's log",
		},
		{
			file: elsewhereNote, anybody: true, code: 0,
			want:    verdicts{"holds", "not-asked no-identity", "not-asked no-certification"},
			because: "without an identity it proves when, and not by whom",
		},
	})
}

func (d *demo) trials(ctx context.Context, all []trial) error {
	for _, t := range all {
		if t.receipt == "" {
			t.receipt = receiptOf(t.file)
		}
		d.at = "verify " + t.file
		if err := d.try(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// try runs the verifier twice, once for people and once for its reasons.
func (d *demo) try(ctx context.Context, t trial) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	args := []string{"verify", t.file, t.receipt, "--headers", "headers.bin"}
	if !t.anybody {
		args = append(args, "--identity", "identity.json")
	}
	calpe := dev.Program{Path: d.cfg.Calpe, Dir: d.docs}
	d.p.command(append([]string{"calpe"}, args...)...)
	shown, err := calpe.Run(ctx, args...)
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(shown.Stdout, "\n") // the first line names the files again
	d.p.quoteWrapped(rest, verdictIndent)
	if shown.Code != t.code {
		return fmt.Errorf("exit code %d, expected %d\n%s", shown.Code, t.code, shown.Stderr)
	}
	told, err := calpe.Run(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	got, err := readVerdicts(told.Stdout)
	if err != nil {
		return err
	}
	if got != t.want {
		return fmt.Errorf("the verdicts are %v, expected %v", got, t.want)
	}
	d.p.outcome("exit code %d; %s", t.code, t.because)
	return nil
}

// readVerdicts reads what "calpe verify --json" prints.
func readVerdicts(text string) (verdicts, error) {
	type verdict struct{ Status, Reason string }
	var answer struct {
		Report struct {
			Existed   verdict
			InLog     verdict `json:"in_log"`
			Certified verdict
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return verdicts{}, fmt.Errorf("parse the report: %w", err)
	}
	words := func(v verdict) string { return strings.TrimSpace(v.Status + " " + v.Reason) }
	r := answer.Report
	return verdicts{words(r.Existed), words(r.InLog), words(r.Certified)}, nil
}

// summary ends the demo.
func (d *demo) summary() {
	d.p.act("Summary", fmt.Sprintf(`Done in %.1f s, with every outcome as expected.

shown      4 documents were notarized, and the receipt of each was verified without the service: that it
           existed before a block of Bitcoin was mined, in whose log it is, and for one who certified it
refused    a changed document, a changed receipt, a receipt of somebody else's log
receipts   %s
log        %s
anchor     %s`, d.p.since().Seconds(), strings.Join(d.sizes, ", "), d.checkpoint, d.block))
	if d.cfg.Keep {
		d.p.text("kept       " + filepath.Join(d.docs, receiptOf(birthCertificate)) + "\n           with documents, headers and identity beside it")
	} else {
		d.p.text("kept       nothing (\"--keep\" keeps documents and receipts)")
	}
	d.p.text("\nNext: \"make dev\" runs the service for you to use.")
}
