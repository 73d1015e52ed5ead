package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/stamp"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/receipt"
)

// What CALPE_ANCHOR can be.
const (
	anchorBitcoin   = "bitcoin"
	anchorCalendars = "calendars"
)

// byCoins reports whether the log has a chain of coins of its own.
func (c Config) byCoins() bool { return c.Anchor != anchorCalendars }

// byCalendars reports whether calendars anchor the log, alone or beside that.
func (c Config) byCalendars() bool { return c.Anchor != anchorBitcoin }

// checkAnchor refuses settings that are another log's: how it is anchored is a
// part of its identity, for ever. Calendars may join and leave a chain of coins.
func (c Config) checkAnchor(id receipt.Identity) error {
	switch {
	case id.FirstOutpoint == nil && c.byCoins():
		return fmt.Errorf("the identity of %s says that it is anchored by calendars: set CALPE_ANCHOR=calendars", id.Origin)
	case id.FirstOutpoint != nil && !c.byCoins():
		return fmt.Errorf("the identity of %s says that it is anchored by a chain of coins: set CALPE_ANCHOR to bitcoin, or to both for calendars beside it", id.Origin)
	}
	return nil
}

// Stamping says by which calendars the log is anchored, and when an operator is
// to be told that they don't.
type Stamping struct {
	Calendars []string      `help:"Addresses of the OpenTimestamps calendars that anchor the log, with commas between them: two or more, by different operators, for CALPE_ANCHOR=calendars or both. They get one hash each CALPE_ANCHOR_INTERVAL, and learn nothing of any document." env:"CALENDARS" placeholder:"https://…"`
	Headers   string        `help:"File with Bitcoin's block headers, as \"calpe headers\" writes it and keeps it new, to compare what calendars say with. A node, if there is one, is asked instead. With neither, nothing is compared here, and no entry gets confirmed." env:"HEADERS" type:"path"`
	Ask       time.Duration `help:"How often a calendar is asked for the rest of what it has promised; of old promises more rarely." env:"ASK" default:"10m"`
	Timeout   time.Duration `help:"Longest call of a calendar." env:"TIMEOUT" default:"30s"`
	Silence   int           `help:"Intervals without a promise of any calendar after which there is an alarm." env:"SILENCE" default:"3"`
	Stall     time.Duration `help:"Time that a promise may be open, with no later one kept, before there is an alarm. Public calendars take up to half a day." env:"STALL" default:"24h"`
}

// urls are the calendars' addresses. Our own calendar isn't one: it would wait
// for itself.
func (g Stamping) urls(own string) ([]*url.URL, error) {
	var list []*url.URL
	for i, text := range g.Calendars {
		u, err := calendar.ParseURL(text)
		if err != nil { // it isn't repeated: there may be a password in it
			return nil, fmt.Errorf("CALPE_STAMP_CALENDARS: address %d: %w", i+1, err)
		}
		if mine, err := calendar.ParseURL(own); err == nil && *mine == *u {
			return nil, fmt.Errorf("CALPE_STAMP_CALENDARS: %s is the calendar of this log: it can't anchor itself", u)
		}
		list = append(list, u)
	}
	return list, nil
}

// headersFrom says with what the answers of calendars are compared.
type headersFrom string

const (
	headersFromNode    headersFrom = "node"
	headersFromFile    headersFrom = "file"
	headersFromNowhere headersFrom = "nothing"
)

// openHeaders gives what is known of the chain; nil if nothing is.
func (s *service) openHeaders(c *serveCommand) (stamp.Headers, headersFrom, error) {
	switch {
	case s.node != nil:
		return stamp.NodeHeaders{Node: s.node, Network: s.identity.Network}, headersFromNode, nil
	case c.Stamping.Headers == "":
		return nil, headersFromNowhere, nil
	}
	file, err := stamp.NewFileHeaders(c.Stamping.Headers, s.identity.Network)
	if err != nil {
		return nil, "", err
	}
	return file, headersFromFile, nil
}

// openStamping makes what anchors by calendars, or else what goes on comparing
// the proofs of calendars that did so before: receipts and watermarks have them.
func (s *service) openStamping(c *serveCommand) error {
	known, from, err := s.openHeaders(c)
	if err != nil {
		return err
	}
	s.headers, s.comparedWith = known, from
	cfg := stamp.Config{
		Store: s.db.Proofs(), Log: s.db, Headers: known, Agrees: s.secondAgrees(c.Depth),
		Interval: c.Anchoring.Interval, Depth: c.Depth, Ask: c.Ask, Silence: c.Silence, Stall: c.Stall, Poll: c.Poll,
		Now: s.app.now, Logger: s.log,
	}
	if s.app.byCalendars() {
		if cfg.URLs, err = c.urls(c.URI); err != nil {
			return err
		}
		s.calendars = calendar.New(calendar.Config{Timeout: c.Stamping.Timeout})
		cfg.Calendars = s.calendars
	} else if len(c.Calendars) > 0 {
		return errors.New("CALPE_STAMP_CALENDARS is set, and CALPE_ANCHOR is bitcoin: set that to calendars or both")
	}
	if s.stamping, err = stamp.New(cfg); err != nil {
		return fmt.Errorf("CALPE_STAMP_CALENDARS: %w", err)
	}
	return nil
}

// secondAgrees asks the second node for a block, as the engine does of its anchors;
// nil if there is none.
func (s *service) secondAgrees(depth uint32) func(ctx context.Context, height uint32, block calpe.BlockHash) error {
	if s.second == nil {
		return nil
	}
	return func(ctx context.Context, height uint32, block calpe.BlockHash) error {
		return anchor.AskWitness(ctx, s.second, s.identity.Network, height, block, depth)
	}
}

// checkStamping reads the file of headers, so that a wrong one is told of at once.
func (s *service) checkStamping(ctx context.Context) error {
	switch s.comparedWith {
	case headersFromFile:
		if _, _, err := s.headers.Tip(ctx); err != nil {
			return fmt.Errorf("CALPE_STAMP_HEADERS: %w", err)
		}
	case headersFromNowhere:
		s.log.WarnContext(ctx, "there is neither a Bitcoin node nor a file of headers: what calendars say isn't compared, and no entry gets confirmed here")
	case headersFromNode: // checkNode did
	}
	return nil
}

// Stamping is how anchoring by calendars stands. It is read from the database:
// another process may lead.
func (s *service) Stamping(ctx context.Context) (api.StampingState, error) {
	sum, err := s.db.Proofs().ProofSummary(ctx)
	if err != nil {
		return api.StampingState{}, err
	}
	return api.StampingState{
		State: string(s.stamping.Limits().Judge(sum, s.app.now())), ComparedWith: string(s.comparedWith),
		Promised: sum.Promised, PromisedAt: sum.PromisedAt, Led: sum.Led, LedAt: sum.LedAt, Pending: sum.Pending,
	}, nil
}

// stamper is what the API asks how calendars stand; nil if none are asked.
func (s *service) stamper() api.Stamper {
	if s.calendars == nil {
		return nil
	}
	return s
}

// treasury is what the API asks for the funds; nil if there are none.
func (s *service) treasury() api.Treasury {
	if s.engine == nil {
		return nil
	}
	return s
}
