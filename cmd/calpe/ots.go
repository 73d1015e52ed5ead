package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/ots"
)

// otsCommand are the commands for OpenTimestamps files.
type otsCommand struct {
	Info    otsInfoCommand    `cmd:"" help:"Show what is in a .ots file, without verifying it."`
	Stamp   otsStampCommand   `cmd:"" help:"Stamp files with calendars. Writes FILE.ots."`
	Upgrade otsUpgradeCommand `cmd:"" help:"Ask the calendars for what a .ots file still lacks."`
	Merge   otsMergeCommand   `cmd:"" help:"Put together what several .ots files say of one document."`
	Verify  otsVerifyCommand  `cmd:"" help:"Verify a .ots file. Asks no calendar."`
	Export  otsExportCommand  `cmd:"" help:"Write a receipt as a .ots file, which any OpenTimestamps client can verify."`
}

func (otsCommand) Help() string {
	return `OpenTimestamps is a format for proofs that a document existed before a block of Bitcoin, which many programs read. A file of it says nothing of whose log a document is in, or of who certified it: that is in a receipt alone.`
}

// readOTS reads a file that must be one, and gives its bytes too.
func readOTS(path string) (ots.DetachedFile, []byte, error) {
	data, err := readFile(path, int64(ots.MaxFile))
	if err != nil {
		return ots.DetachedFile{}, nil, err
	}
	f, err := ots.Parse(data)
	if err != nil {
		return ots.DetachedFile{}, nil, fmt.Errorf("%w: %s: %w", errRefuted, shown(path), err)
	}
	return f, data, nil
}

// createOTS writes a file that must not exist yet. It holds the plain digest of
// a document, like a receipt.
func createOTS(path string, f ots.DetachedFile) error {
	data, err := f.Serialize()
	if err != nil {
		return err
	}
	return createFile(path, data)
}

// refuseExisting is an error if there is something at path.
func refuseExisting(path string) error {
	there, err := exists(path)
	if err == nil && there {
		err = fmt.Errorf("%s exists and isn't overwritten: move it away, or merge the two later (\"calpe ots merge\")", shown(path))
	}
	return err
}

// blocksOf are the Bitcoin blocks that a timestamp names, lowest first, without
// repetition.
func blocksOf(t ots.Timestamp) []uint64 {
	var heights []uint64
	for _, a := range t.All() {
		if height, ok := a.Block(); ok {
			heights = append(heights, height)
		}
	}
	slices.Sort(heights)
	return slices.Compact(heights)
}

// pendingAt are the calendars that haven't answered yet, without repetition.
func pendingAt(t ots.Timestamp) (list []string) {
	seen := map[string]bool{}
	for _, uri := range t.Pending() {
		if !seen[uri] {
			seen[uri] = true
			list = append(list, uri)
		}
	}
	return list
}

// listed is some of a list that whoever wrote a file has chosen, in one line.
func listed[T any](all []T) string {
	const most = 5
	var names []string
	for _, one := range all[:min(len(all), most)] {
		names = append(names, fmt.Sprint(one))
	}
	if len(all) > most {
		names = append(names, fmt.Sprintf("%d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

type otsInfoCommand struct {
	JSON bool   `name:"json" help:"Print it as JSON: {hash, digest, complete, attestations, pending, timestamp}."`
	File string `arg:"" name:"file.ots" help:"The file."`
}

func (otsInfoCommand) Help() string {
	return `Shows the operations that lead from the document's digest to what attests it: a Bitcoin block, whose Merkle root the message must be, or a calendar that has the rest of the way later. Where the way forks, each branch starts with "->".

Nothing is verified and nobody is asked. Whoever wrote the file has chosen all that is shown.`
}

// maxListed bounds the attestations that info lists: each may be of 4096 bytes,
// and a hostile file has many.
const maxListed = 1000

// otsInfo is what info prints as JSON.
type otsInfo struct {
	Hash         string           `json:"hash"`
	Digest       string           `json:"digest"`
	Complete     bool             `json:"complete"` // there is a Bitcoin attestation; nothing is verified
	Attestations []otsAttestation `json:"attestations"`
	Pending      []string         `json:"pending,omitempty"` // calendars that haven't answered yet
	Timestamp    ots.Tree         `json:"timestamp"`
}

type otsAttestation struct {
	Attestation ots.Attestation  `json:"attestation"`
	Message     string           `json:"message"`
	Height      *uint64          `json:"height,omitempty"`
	MerkleRoot  *calpe.BlockHash `json:"merkle_root,omitempty"` // as Bitcoin shows it
	Calendar    string           `json:"calendar,omitempty"`
}

func (c *otsInfoCommand) Run(a *app) error {
	f, _, err := readOTS(c.File)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(a.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(infoOf(f))
	}
	return c.printText(a, f)
}

func infoOf(f ots.DetachedFile) otsInfo {
	t := f.Timestamp()
	return otsInfo{Hash: f.Hash().String(), Digest: fmt.Sprintf("%x", f.Digest()), Complete: len(blocksOf(t)) > 0,
		Attestations: attestationsOf(t), Pending: pendingAt(t), Timestamp: t.Tree()}
}

// attestationsOf are the first maxListed of a timestamp.
func attestationsOf(t ots.Timestamp) (list []otsAttestation) {
	for message, a := range t.All() {
		if len(list) == maxListed {
			break
		}
		one := otsAttestation{Attestation: a, Message: fmt.Sprintf("%x", message)}
		one.Calendar, _ = a.Calendar()
		if height, ok := a.Block(); ok {
			one.Height = &height
			if len(message) == calpe.HashSize {
				one.MerkleRoot = new(calpe.BlockHash(message))
			}
		}
		list = append(list, one)
	}
	return list
}

func (c *otsInfoCommand) printText(a *app, f ots.DetachedFile) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is about the document whose digest is in the first line; each operation makes another message of the one before:\n\n", shown(c.File))
	if err := f.WriteText(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nIt says, and nothing of it is verified here:\n")
	list := attestationsOf(f.Timestamp())
	for _, one := range list {
		fmt.Fprintf(&b, "  %s\n", one.words())
	}
	if len(list) == maxListed {
		fmt.Fprintf(&b, "  and perhaps more: %d are listed\n", maxListed)
	}
	if len(blocksOf(f.Timestamp())) == 0 {
		fmt.Fprintf(&b, "Incomplete: no Bitcoin block yet.\n")
	}
	if waits := pendingAt(f.Timestamp()); len(waits) > 0 {
		fmt.Fprintf(&b, "Not answered yet: %s. \"calpe ots upgrade\" asks them.\n", listed(waits))
	}
	_, err := io.WriteString(a.Stdout, clean(b.String()))
	return err
}

func (o otsAttestation) words() string {
	switch {
	case o.MerkleRoot != nil:
		return fmt.Sprintf("%s has the Merkle root %s", o.Attestation, o.MerkleRoot)
	case o.Height != nil:
		return fmt.Sprintf("%s, which can't hold: a Merkle root has %d bytes, not %d", o.Attestation, calpe.HashSize, len(o.Message)/2)
	case o.Calendar != "":
		return fmt.Sprintf("the calendar %s has taken it", o.Calendar)
	}
	return fmt.Sprintf("%s: nothing that this program can verify", o.Attestation)
}

type otsMergeCommand struct {
	Output string   `short:"o" required:"" help:"The file to write; it must not exist." placeholder:"FILE"`
	Files  []string `arg:"" name:"file.ots" help:"Files about the same document."`
}

func (otsMergeCommand) Help() string {
	return `The new file has all that is in any of them: one proof that holds is enough. The files stay as they are.`
}

func (c *otsMergeCommand) Run(_ context.Context, a *app) error {
	if len(c.Files) < 2 {
		return errors.New("give at least two files to merge")
	}
	if err := refuseExisting(c.Output); err != nil {
		return err
	}
	merged, _, err := readOTS(c.Files[0])
	if err != nil {
		return err
	}
	for _, path := range c.Files[1:] {
		f, _, err := readOTS(path)
		if err != nil {
			return err
		}
		if merged, err = merged.Merge(f); err != nil {
			return fmt.Errorf("%s with %s: %w", shown(path), shown(c.Files[0]), err)
		}
	}
	if err := createOTS(c.Output, merged); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "%s: %s\n", shown(c.Output), standing(merged))
	return err
}

// standing says in a few words how far a file has come.
func standing(f ots.DetachedFile) string {
	var parts []string
	if blocks := blocksOf(f.Timestamp()); len(blocks) > 0 {
		parts = append(parts, "complete: in Bitcoin block "+listed(blocks)+" (verify it with \"calpe ots verify\")")
	}
	if waits := pendingAt(f.Timestamp()); len(waits) > 0 {
		parts = append(parts, "pending at "+listed(waits))
	}
	if len(parts) == 0 {
		return "nothing of Bitcoin, and no calendar to ask"
	}
	return strings.Join(parts, "; ")
}
