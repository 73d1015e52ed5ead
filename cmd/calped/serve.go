package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/batch"
)

// Anchoring says how often and at what cost the log is anchored.
type Anchoring struct {
	Interval   time.Duration `help:"Least time between two anchors." env:"INTERVAL" default:"1h"`
	Depth      uint32        `help:"Confirmations from which an anchor is final." env:"DEPTH" default:"6"`
	FeeRate    float64       `help:"Fee rate in sat/vB when the node has no estimate." env:"FEE_RATE" default:"2"`
	MaxFeeRate float64       `help:"Highest fee rate in sat/vB." env:"MAX_FEE_RATE" default:"20"`
	MaxFee     int64         `help:"Highest fee of one anchor in satoshis." env:"MAX_FEE" default:"20000"`
	MaxDay     int64         `help:"Highest sum of anchor fees within any 24 hours, in satoshis." env:"MAX_DAY" default:"100000"`
	Target     int           `help:"Blocks within which an anchor should be mined, 2 to 25. When it isn't, each new block brings an attempt with a higher fee." env:"TARGET" default:"6"`
	Patience   time.Duration `help:"Time within which an anchor should be mined; the same happens when it isn't." env:"PATIENCE" default:"2h"`
	Raise      float64       `help:"Least difference between the fee rates of two attempts, in sat/vB; at least 1. Your node's incremental relay fee, if that is higher." env:"RAISE" default:"1"`
	MinDeposit int64         `help:"Smallest payment to the anchor address that is noticed, in satoshis: dust costs more than it is worth. 0: what ends a shortage at the highest fee." env:"MIN_DEPOSIT" default:"0"`
	LowFunds   int64         `help:"Anchors left, at the present fee rate, below which the funds are called low." env:"LOW_FUNDS" default:"100"`
	Poll       time.Duration `help:"How often the node is asked for news." env:"POLL" default:"5s"`
}

// caps turns the settings into the unit of the engine.
func (g Anchoring) caps() (wallet.Caps, ledger.FeeRate, error) {
	fallback, err := ledger.FeeRateFromSatPerVB(g.FeeRate)
	if err != nil {
		return wallet.Caps{}, 0, err
	}
	highest, err := ledger.FeeRateFromSatPerVB(g.MaxFeeRate)
	if err != nil {
		return wallet.Caps{}, 0, err
	}
	if g.MaxDay <= 0 {
		return wallet.Caps{}, 0, fmt.Errorf("a day's anchors may cost %d sat, which pays for none", g.MaxDay)
	}
	caps := wallet.Caps{FeeRate: highest, Fee: g.MaxFee, Day: g.MaxDay}
	return caps, fallback, caps.Validate()
}

// Sealing says how often new entries are sealed into a checkpoint.
type Sealing struct {
	Interval   time.Duration `help:"Longest time an entry waits for its checkpoint." env:"INTERVAL" default:"5s"`
	MaxEntries uint64        `help:"Entries at which a batch is sealed at once." env:"MAX_ENTRIES" default:"65536"`
	Promise    time.Duration `help:"Deadline in acknowledgements: by then a checkpoint must hold the entry. Far above the interval." env:"PROMISE" default:"1h"`
}

// Keeping says what documents may be, and for how long they can't be deleted.
type Keeping struct {
	MaxSize    int64         `help:"Largest document in bytes." env:"MAX_SIZE" default:"5368709120"`
	MinRate    int64         `help:"Slowest upload that is taken, in bytes a second, averaged from the start." env:"MIN_RATE" default:"4096"`
	IdleTime   time.Duration `help:"Longest silence within an upload." env:"IDLE_TIME" default:"30s"`
	MaxTime    time.Duration `help:"Longest upload." env:"MAX_TIME" default:"6h"`
	PiecesTime time.Duration `help:"Longest time that a document may take which comes in pieces (tus), from its beginning to that of its last piece; with the longest upload below the age of orphans." env:"PIECES_TIME" default:"16h"`
	Pieces     int           `help:"Pieces of documents that are read at a time; each takes 5 MiB." env:"PIECES" default:"16"`
	RetainFor  time.Duration `help:"How long Object Lock keeps each document." env:"RETAIN_FOR" default:"87600h"`
	RetainMode string        `help:"Object Lock mode: compliance (nobody can shorten it) or governance (an administrator can)." env:"RETAIN_MODE" enum:"compliance,governance" default:"compliance"`
	OrphanAge  time.Duration `help:"Age at which an object that no document names is deleted; above the longest upload." env:"ORPHAN_AGE" default:"24h"`
}

// Accounts says what one owner may have recorded, by all of their tokens together.
type Accounts struct {
	Uploads          int   `help:"Streams of commitments that one owner may send at a time." env:"UPLOADS" default:"4"`
	AllUploads       int   `help:"Streams of commitments by all owners at a time; each takes up to 5 MiB." env:"ALL_UPLOADS" default:"64"`
	EntriesPerSecond int64 `help:"Entries a second for each owner. A stream is slowed down to it; other requests above it get 429. 0: no limit." env:"ENTRIES_PER_SECOND" default:"0"`
	EntriesPerDay    int64 `help:"Entries a day for each owner, a day's worth at once and then evenly. 0: no limit." env:"ENTRIES_PER_DAY" default:"0"`
	BytesPerSecond   int64 `help:"Bytes a second of documents and commitments for each owner. 0: no limit." env:"BYTES_PER_SECOND" default:"0"`
	BytesPerDay      int64 `help:"Bytes a day of documents and commitments for each owner. 0: no limit." env:"BYTES_PER_DAY" default:"0"`
}

func (a Accounts) check() error {
	if a.Uploads < 1 || a.AllUploads < 1 || min(a.EntriesPerSecond, a.EntriesPerDay, a.BytesPerSecond, a.BytesPerDay) < 0 {
		return fmt.Errorf("limits on accounts: %+v; give 1 stream or more, and nothing below 0", a)
	}
	return nil
}

func (a Accounts) limits() api.AccountLimits {
	return api.AccountLimits{
		EntriesPerSecond: a.EntriesPerSecond, EntriesPerDay: a.EntriesPerDay,
		BytesPerSecond: a.BytesPerSecond, BytesPerDay: a.BytesPerDay, Uploads: a.Uploads,
	}
}

// Finding says how often anybody, without a token, may look for a document by its
// digest or code.
type Finding struct {
	PerMinute int `help:"Look-ups at /v1/find in a minute by each client network (an IPv4 /24, an IPv6 /64). 0: there is no /v1/find." env:"PER_MINUTE" default:"30"`
	Total     int `help:"Look-ups in a minute by everybody together." env:"TOTAL" default:"600"`
}

func (f Finding) check() error {
	if f.PerMinute < 0 || f.Total < 1 {
		return fmt.Errorf("limits on finding: %d a minute by each network and %d by all; give 0 or more, and 1 or more", f.PerMinute, f.Total)
	}
	return nil
}

// Calendar says whether and where anybody, without a token, may have digests
// stamped by OpenTimestamps clients.
type Calendar struct {
	Listen    string `help:"Address on which to serve an OpenTimestamps calendar, at the root of a host name of its own. Empty: it isn't served." env:"LISTEN" placeholder:"HOST:PORT"`
	URI       string `help:"The calendar's public address, a host alone: https://calendar.example. It is written into every proof: it can't change for as long as these are to be completed." env:"URI" placeholder:"https://…"`
	PerMinute int    `help:"Digests stamped in a minute for each client network (an IPv4 /24, an IPv6 /64)." env:"PER_MINUTE" default:"60"`
	Total     int    `help:"Digests stamped in a minute for everybody together." env:"TOTAL" default:"600"`
}

// check judges the settings, also of a server that doesn't serve the calendar
// itself: it writes the address of the one that does.
func (c Calendar) check() error {
	if c.Listen != "" && c.URI == "" {
		return errors.New("the calendar has no address: set CALPE_CALENDAR_URI to what clients reach CALPE_CALENDAR_LISTEN by, for instance https://calendar.example")
	}
	if c.PerMinute < 1 || c.Total < 1 {
		return fmt.Errorf("limits on stamping: %d a minute by each network and %d by all; give 1 or more", c.PerMinute, c.Total)
	}
	if c.URI == "" {
		return nil
	}
	if err := api.CheckCalendarURI(c.URI); err != nil {
		return fmt.Errorf("CALPE_CALENDAR_URI: %w", err)
	}
	return nil
}

type serveCommand struct {
	Listen         string         `help:"Address to listen on. TLS is the reverse proxy's." env:"CALPE_LISTEN" default:"127.0.0.1:8420"`
	TrustedProxies []netip.Prefix `help:"Networks of the reverse proxies, whose X-Forwarded-For says who asks; limits by address count on it." env:"CALPE_TRUSTED_PROXIES" default:"127.0.0.0/8,::1/128"`
	MetricsListen  string         `help:"Address on which to serve Prometheus metrics, at /metrics. Not for the public: it tells of money and load. Empty: they aren't served." env:"CALPE_METRICS_LISTEN" placeholder:"HOST:PORT"`
	ShutdownGrace  time.Duration  `help:"How long running requests may take to finish at shutdown." env:"CALPE_SHUTDOWN_GRACE" default:"30s"`
	Anchoring      `embed:"" prefix:"anchor-" envprefix:"CALPE_ANCHOR_" group:"Anchoring"`
	Stamping       `embed:"" prefix:"stamp-" envprefix:"CALPE_STAMP_" group:"Anchoring by calendars"`
	Sealing        `embed:"" prefix:"seal-" envprefix:"CALPE_SEAL_" group:"Sealing"`
	Keeping        `embed:"" prefix:"document-" envprefix:"CALPE_DOCUMENT_" group:"Documents"`
	Accounts       `embed:"" prefix:"account-" envprefix:"CALPE_ACCOUNT_" group:"Accounts"`
	Finding        `embed:"" prefix:"find-" envprefix:"CALPE_FIND_" group:"Finding"`
	Calendar       `embed:"" prefix:"calendar-" envprefix:"CALPE_CALENDAR_" group:"OpenTimestamps calendar"`
}

// Run serves until ctx is done, or until a part fails that can't go on.
//
// Shutdown, in this order, so that nothing that was accepted is dropped:
//
//  1. event streams end; the listeners of API and calendar close; requests that
//     run may finish, for the grace time;
//  2. intake takes no more, commits what it has, and answers its callers;
//  3. the loops (stamping, sealing, anchoring, monitoring, retention, sweep) are cancelled;
//     each stops between two steps, and every step can be stopped anywhere (I8);
//  4. when all have returned, connections are closed.
func (c *serveCommand) Run(ctx context.Context, a *app) error {
	s, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.check(ctx); err != nil {
		return err
	}
	endpoints, err := c.listen(ctx, s)
	if err != nil {
		return err
	}
	return s.run(ctx, endpoints, c.ShutdownGrace)
}

// endpoint is a listener and what answers on it.
type endpoint struct {
	listener net.Listener
	server   *http.Server
}

// listen opens the listeners, or none.
func (c *serveCommand) listen(ctx context.Context, s *service) ([]endpoint, error) {
	var config net.ListenConfig
	own, err := config.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "serving", slog.String("address", own.Addr().String()), slog.String("origin", s.identity.Origin),
		slog.String("network", string(s.identity.Network)), slog.String("identity", s.identity.Hash().String()))
	endpoints := []endpoint{{own, s.apiServer()}}
	if s.calendar != nil {
		anybody, err := config.Listen(ctx, "tcp", c.Calendar.Listen)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("calendar: %w", err), closeAll(endpoints))
		}
		s.log.InfoContext(ctx, "serving the calendar", slog.String("address", anybody.Addr().String()), slog.String("uri", c.URI))
		endpoints = append(endpoints, endpoint{anybody, s.calendarServer()})
	}
	if c.MetricsListen != "" {
		operator, err := config.Listen(ctx, "tcp", c.MetricsListen)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("metrics: %w", err), closeAll(endpoints))
		}
		s.log.InfoContext(ctx, "serving metrics", slog.String("address", operator.Addr().String()))
		endpoints = append(endpoints, endpoint{operator, s.metricsServer()})
	}
	return endpoints, nil
}

// closeAll closes listeners that nobody serves on yet.
func closeAll(endpoints []endpoint) error {
	var errs []error
	for _, e := range endpoints {
		errs = append(errs, e.listener.Close())
	}
	return errors.Join(errs...)
}

func (s *service) apiServer() *http.Server {
	// A proxy may speak HTTP/2 with it, without TLS: streams need no connection each.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.api,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// calendarServer is strict: its requests are a few bytes, and from anybody.
func (s *service) calendarServer() *http.Server {
	return &http.Server{
		Handler:           s.calendar,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // from the header's end on: it waits for the log in this time
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    4 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// metricsServer answers few requests, of one or two Prometheus servers.
func (s *service) metricsServer() *http.Server {
	return &http.Server{
		Handler:           s.app.metrics.Handler(s.log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// run starts the parts, and ends them in the order that Run's comment gives.
func (s *service) run(ctx context.Context, endpoints []endpoint, grace time.Duration) error {
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	g, failed := errgroup.WithContext(loops)
	g.Go(func() error { return ignoreCancel(s.recorder.Run(failed)) })
	streams, endStreams := context.WithCancel(failed)
	defer endStreams()
	g.Go(func() error { return s.api.Run(streams) })
	if s.calendar != nil {
		g.Go(func() error { return s.calendar.Run(failed) })
	}
	g.Go(func() error { return s.lead(failed, "batch", s.sealer.Run) })
	g.Go(func() error { return s.lead(failed, "anchor", s.anchor) })
	if s.monitor != nil {
		g.Go(func() error { return s.monitor.Run(failed) })
	}
	g.Go(func() error { return ignoreCancel(s.retainer.Run(failed)) })
	g.Go(func() error { return ignoreCancel(s.sweeper.Run(failed)) })
	g.Go(func() error { return ignoreCancel(s.partials.Run(failed)) })
	for _, e := range endpoints {
		g.Go(func() error {
			if err := e.server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve HTTP: %w", err)
			}
			return nil
		})
	}
	select {
	case <-ctx.Done():
		s.log.InfoContext(loops, "shutting down")
	case <-failed.Done(): // a part can't go on; the others end as at a shutdown
	}
	endStreams()
	limit, cancel := context.WithTimeout(loops, grace)
	defer cancel()
	s.closeEndpoints(limit, endpoints)
	if err := s.recorder.Stop(limit); err != nil {
		s.log.WarnContext(loops, "intake didn't drain in time", slog.Any("error", err))
	}
	stopLoops()
	return g.Wait()
}

// anchor runs what anchors the log: the engine with what publishes its anchors,
// what calendars prove, or both. When one of them ends, all do.
func (s *service) anchor(ctx context.Context, epoch uint64) error {
	together, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	run := func(loop func(ctx context.Context) error) {
		g.Go(func() error {
			defer stop()
			return loop(together)
		})
	}
	if s.engine != nil {
		run(s.anchors.Run)
		run(func(ctx context.Context) error { return s.engine.Run(ctx, epoch) })
	}
	run(func(ctx context.Context) error { return s.stamping.Run(ctx, epoch) })
	return g.Wait()
}

// closeEndpoints closes all listeners, and returns when the last request has its
// answer, or when ctx is done.
func (s *service) closeEndpoints(ctx context.Context, endpoints []endpoint) {
	var all sync.WaitGroup
	for _, e := range endpoints {
		all.Go(func() {
			if err := e.server.Shutdown(ctx); err != nil {
				s.log.WarnContext(ctx, "requests were cut off at shutdown", slog.Any("error", err))
				_ = e.server.Close() // what is left are connections whose time is over
			}
		})
	}
	all.Wait()
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// leadAgain is the pause before a lost leadership is sought again.
const leadAgain = time.Second

// lead runs a loop while this process leads the role, and seeks leadership
// again when it is lost. Evidence that the log has forked stops intake and the
// loop for good, but not the reading of what is there.
func (s *service) lead(ctx context.Context, role string, run func(ctx context.Context, epoch uint64) error) error {
	counted := func(ctx context.Context, epoch uint64) error {
		defer s.app.metrics.Lead(role)()
		return run(ctx, epoch)
	}
	for {
		err := s.db.Lead(ctx, role, counted)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the shutdown is why it ended
		}
		if errors.Is(err, batch.ErrForked) {
			s.recorder.Halt(err)
			s.log.ErrorContext(ctx, "stopped: an operator has to look", slog.String("role", role), slog.Any("error", err))
			return nil
		}
		s.log.WarnContext(ctx, "leadership ended", slog.String("role", role), slog.Any("error", err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(leadAgain):
		}
	}
}

// Watermarks puts together how far the log is: entries and checkpoint from the
// log's tables, the rest from the anchors'.
func (s *service) Watermarks(ctx context.Context) (marks calpe.Watermarks, err error) {
	// Read from the last state to the first: each size only grows, so what is
	// read later is never below what was read before.
	if err := s.db.Anchors().Watermarks(ctx, &marks); err != nil {
		return calpe.Watermarks{}, err
	}
	if err := s.db.Proofs().Watermarks(ctx, &marks); err != nil {
		return calpe.Watermarks{}, err
	}
	head, err := s.db.CheckpointHead(ctx)
	if err != nil && !errors.Is(err, calpe.ErrNotFound) {
		return calpe.Watermarks{}, err
	}
	marks.Checkpointed = head.Size
	marks.Next, err = s.db.NextIndex(ctx)
	return marks, err
}

// Outlook is what the funds still pay for, and when they were last used. It is
// read from the database: the engine may be another process's.
func (s *service) Outlook(ctx context.Context) (api.Outlook, error) {
	f, err := readFunds(ctx, s.db, s.caps, s.fallback)
	if err != nil {
		return api.Outlook{}, err
	}
	return api.Outlook{
		Funds: api.FundsState(f.State(s.lowFunds)), AnchorsLeft: f.LeftAtCap, AnchorsNow: f.Left,
		FeeRate: int64(f.Rate), LastAttempt: f.lastAttempt,
	}, nil
}
