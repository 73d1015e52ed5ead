package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/receipt"
)

type auditCommand struct {
	connection
	pinning
	chainSource
	Log        string  `help:"The public log alone, instead of --server: address of its bucket or CDN, or a folder, such as the mirror of another audit." placeholder:"URL|DIR"`
	Dir        string  `help:"Folder of the mirror: what was seen is compared with the next time, and only what is new is read. It is made if it isn't there." placeholder:"DIR"`
	Depth      int     `help:"How many blocks deep an anchor must be to be final." default:"6" placeholder:"N"`
	Scan       bool    `help:"With --node, an archival one: follow the chain of coins through whole blocks, and trust nothing that the log publishes about it."`
	FromHeight *uint32 `name:"from-height" help:"With --scan: height of the block that makes the first coin, if it is known. Otherwise it is looked for backwards from the first anchor." placeholder:"HEIGHT"`
	JSON       bool    `name:"json" help:"Print the report as JSON."`
}

func (auditCommand) Help() string {
	return `Reads the public log of a service as anybody can, and checks all of it: the signature of the checkpoint, every entry, every tile up to the root, and that the log begins with what it was the last time (--dir). Whoever runs this from time to time would see it if the log showed different histories to different people; a receipt alone can't tell.

The anchors are followed through Bitcoin: from the first coin in the identity, each must spend the coin of the one before, and hold the root that the log has at that size. With --headers (or --node, whose headers are fetched) their blocks must stand in the chain. With --node the node is asked once whether the last coin is unspent: then no anchor was withheld. With --scan all of it is derived from the node's blocks.

It takes the pinned identity of the log (--identity). The mirror in --dir has the layout of the log (C2SP tlog-tiles), 74 bytes an entry; an interrupted run is gone on with. If two signed checkpoints contradict each other, they are printed and kept in its folder conflicts: they prove it to everybody.

Exit codes: 0 everything holds; 1 something is refuted; 2 wrong usage, or the log can't be read, lacks something, or the mirror is at fault; 3 nothing speaks against it, but something is missing: no checkpoint yet, or one that is older than the last time; headers that end before an anchor; an anchor that isn't published.`
}

// auditReaders objects are read at once: enough to keep a line busy, too few to
// be in anybody's way.
const auditReaders = 8

func (c *auditCommand) Run(ctx context.Context, a *app) error {
	id, err := c.pinned()
	if err != nil {
		return err
	}
	if id == nil {
		return errors.New("an audit takes the pinned identity of the log: give --identity FILE or set CALPE_IDENTITY (see calpe identity --help)")
	}
	log, err := c.log(a)
	if err != nil {
		return err
	}
	defer log.Close()
	cfg := audit.Config{Log: log, Identity: *id, Readers: auditReaders}
	if c.Dir != "" {
		mirror, err := openMirror(c.Dir)
		if err != nil {
			return err
		}
		cfg.Mirror = mirror
	}
	closeNode, err := c.bitcoin(ctx, a, &cfg)
	if err != nil {
		return err
	}
	defer closeNode()
	progress, done := a.auditProgress()
	cfg.Progress = progress
	auditor, err := audit.New(cfg)
	if err != nil {
		return err
	}
	report, err := auditor.Run(ctx)
	done()
	if err != nil {
		return fmt.Errorf("audit %s: %w", id.Origin, err)
	}
	return c.print(a, report)
}

// bitcoin is what the audit knows of the chain: headers, and what a node says.
func (c *auditCommand) bitcoin(ctx context.Context, a *app, cfg *audit.Config) (closeNode func(), err error) {
	switch {
	case c.Scan && c.Node == "":
		return nil, errors.New("--scan takes a Bitcoin node that has all blocks: give --node URL")
	case c.FromHeight != nil && !c.Scan:
		return nil, errors.New("--from-height goes with --scan")
	case c.Depth < 1:
		return nil, errors.New("--depth is at least 1")
	}
	cfg.Depth = c.Depth
	if cfg.Identity.FirstOutpoint == nil {
		if c.Scan {
			return nil, fmt.Errorf("%s is anchored by calendars: there is no chain of coins to scan for", cfg.Identity.Origin)
		}
		return func() {}, nil
	}
	if cfg.Headers, err = c.load(ctx, a, true); err != nil {
		return nil, err
	}
	if c.Node == "" {
		return func() {}, nil
	}
	node, err := c.nodeFlags.open()
	if err != nil {
		return nil, err
	}
	if err = node.CheckNetwork(ctx, cfg.Identity.Network); err == nil && c.Scan {
		cfg.Scan, err = c.scan(ctx, a, node, cfg)
	}
	if err != nil {
		node.Close()
		return nil, fmt.Errorf("node %s: %w", nodeName(c.Node), err)
	}
	cfg.Coins = coins{node}
	return node.Close, nil
}

// scan derives the chain of anchors from blocks. What the log publishes only
// says where to begin, and with which coin to go on behind a break.
func (c *auditCommand) scan(ctx context.Context, a *app, node blocks, cfg *audit.Config) (*audit.Scan, error) {
	s := scanner{node: node, identity: cfg.Identity, from: c.FromHeight, below: math.MaxUint32, headers: cfg.Headers}
	if data, err := cfg.Log.Read(ctx, receipt.AnchorsPath(0), receipt.MaxAnchorsPage, false); err == nil {
		if page, err := receipt.DecodeAnchors(data); err == nil && len(page) > 0 {
			s.below = page[0].Height
		}
	}
	if data, err := cfg.Log.Read(ctx, receipt.BreaksPath, receipt.MaxBreaksSize, false); err == nil {
		if breaks, err := receipt.DecodeBreaks(data); err == nil { // else the audit says what is wrong with them
			s.breaks = breaks
		}
	}
	progress, done := a.scanProgress()
	s.progress = progress
	scan, err := s.run(ctx)
	done()
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	return scan, nil
}

// coins asks a node about outputs.
type coins struct{ *bitcoin.Client }

// Unspent implements audit.Coins.
func (c coins) Unspent(ctx context.Context, o calpe.Outpoint) (bool, error) {
	_, unspent, err := c.TxOut(ctx, o)
	return unspent, err
}

// publicLog is a log that is being read.
type publicLog interface {
	audit.Log
	Close() error
}

func (c *auditCommand) log(a *app) (publicLog, error) {
	if c.Log == "" {
		s, err := c.open(a, "")
		if err != nil {
			return nil, err
		}
		return newHTTPLog(s, "log/"), nil
	}
	if u, err := url.Parse(c.Log); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		s, err := connection{Server: c.Log}.open(a, "")
		if err != nil {
			return nil, fmt.Errorf("--log: %w", err)
		}
		return newHTTPLog(s, ""), nil
	}
	if err := c.checkFolders(); err != nil {
		return nil, err
	}
	return openFolderLog(c.Log)
}

// checkFolders refuses a mirror of itself, which would always hold.
func (c *auditCommand) checkFolders() error {
	log, err := os.Stat(c.Log)
	if err != nil {
		return fmt.Errorf("--log is neither an address nor a folder: %w", err)
	}
	if mirror, err := os.Stat(c.Dir); err == nil && os.SameFile(log, mirror) {
		return errors.New("--log and --dir are the same folder: to check a mirror, give it as --log alone")
	}
	return nil
}

func (c *auditCommand) print(a *app, r audit.Report) error {
	var err error
	if c.JSON {
		enc := json.NewEncoder(a.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		var b strings.Builder
		if err = r.WriteText(&b); err == nil {
			_, err = fmt.Fprint(a.Stdout, clean(b.String()))
		}
	}
	switch {
	case err != nil:
		return err
	case r.Status == receipt.Holds:
		return nil
	case r.Status == receipt.NotYet:
		return reported(exitNotYet)
	default:
		return reported(exitRefuted)
	}
}

// auditProgress is a bar over the entries of a log.
func (a *app) auditProgress() (progress func(checked, size uint64), done func()) {
	var m meter
	var last uint64
	return func(checked, size uint64) {
		if last == 0 {
			m = a.newMeter("entries", int64(size), false)
		}
		m.add(int(checked - last))
		last = checked
	}, func() { m.done() }
}

// scanProgress is a bar over the blocks of a scan.
func (a *app) scanProgress() (progress func(height, tip int), done func()) {
	var m meter
	last := 0
	return func(height, tip int) {
		if last == 0 {
			m = a.newMeter("blocks", int64(tip), false)
		}
		m.add(height - last)
		last = height
	}, func() { m.done() }
}
