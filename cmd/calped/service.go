package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/stamp"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/internal/buildinfo"
	"github.com/calpe/calpe/metrics"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/storage/keyring"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

// service is the running server: every part, wired.
type service struct {
	app      *app
	log      *slog.Logger
	keyring  *keyring.Ring
	identity receipt.Identity
	db       *postgres.DB
	objects  *s3.Store
	node     *bitcoin.Client // nil: there is none, and calendars anchor the log
	second   *bitcoin.Client // nil: there is none
	recorder *intake.Recorder
	sealer   *batch.Sealer
	engine   *anchor.Engine  // nil: the log has no coins
	monitor  *anchor.Monitor // nil: there is no node
	anchors  *batch.AnchorPublisher
	retainer *intake.Retainer
	sweeper  *intake.Sweeper
	partials *intake.Partials
	caps     wallet.Caps
	fallback ledger.FeeRate // while the node has no estimate
	lowFunds int64
	api      *api.Server
	calendar *api.Calendar // nil: it isn't served here

	stamping     *stamp.Engine
	calendars    *calendar.Client // nil: none are asked, and stamping compares what they proved before
	headers      stamp.Headers
	comparedWith headersFrom
}

// open loads keys, connects, and wires the parts. It changes nothing anywhere.
func (c *serveCommand) open(ctx context.Context, a *app) (_ *service, err error) {
	s := &service{app: a, log: a.log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	a.metrics = metrics.New(buildinfo.Version("calped"))
	keys, err := a.loadSigningKeys()
	if err != nil {
		return nil, err
	}
	if s.db, err = a.openDatabase(ctx); err != nil {
		return nil, err
	}
	if s.identity, err = a.loadIdentity(ctx, s.db, keys); err != nil {
		return nil, err
	}
	if s.objects, err = a.openObjects(); err != nil {
		return nil, err
	}
	if err := a.checkAnchor(s.identity); err != nil {
		return nil, err
	}
	if err := s.openNodes(); err != nil {
		return nil, err
	}
	published, err := batch.NewLog(batch.LogConfig{
		Objects: s.objects,
		Open:    func(note []byte) (calpe.Checkpoint, error) { return receipt.OpenCheckpoint(note, s.identity) },
	})
	if err != nil {
		return nil, err
	}
	if err := s.openSealer(c, keys, published); err != nil {
		return nil, err
	}
	recording := a.recorderConfig(s.db, s.objects, published, s.identity, keys, c.Promise)
	recording.Groups = a.metrics.Groups(s.db)
	if s.recorder, err = intake.NewRecorder(recording); err != nil {
		return nil, err
	}
	if err := s.openEngine(ctx, c, published); err != nil {
		return nil, err
	}
	if err := s.openStamping(c); err != nil {
		return nil, err
	}
	if err := s.openMonitor(c); err != nil {
		return nil, err
	}
	return s, s.openIntake(c, published)
}

// loadIdentity reads whose log the database holds, and refuses keys or settings
// that are another log's.
func (a *app) loadIdentity(ctx context.Context, db *postgres.DB, keys signingKeys) (receipt.Identity, error) {
	d, err := db.Deployment(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return receipt.Identity{}, errors.New("there is no log in this database yet: run \"calped log create\"")
	}
	if err != nil {
		return receipt.Identity{}, err
	}
	identity, err := receipt.ParseIdentity(d.Identity)
	if err != nil {
		return receipt.Identity{}, err
	}
	network, err := a.network()
	if err != nil {
		return receipt.Identity{}, err
	}
	if identity.Network != network {
		return receipt.Identity{}, fmt.Errorf("the log is anchored in %s, but CALPE_NETWORK is %s", identity.Network, network)
	}
	for _, k := range []struct {
		file, key string
		known     []string
	}{
		{checkpointFile, keys.checkpoint.Verifier(), identity.CheckpointKeys},
		{acknowledgementFile, keys.acknowledgement.Verifier(), identity.AcknowledgementKeys},
		{statementFile, keys.statement.Verifier(), identity.StatementKeys},
	} {
		if !slices.Contains(k.known, k.key) {
			return receipt.Identity{}, fmt.Errorf("%s is not a key of the log %s in this database", k.file, identity.Origin)
		}
	}
	entry, err := db.Entry(ctx, 0)
	if err != nil {
		return receipt.Identity{}, fmt.Errorf("read entry 0: %w", err)
	}
	if entry != identity.Entry() {
		return receipt.Identity{}, errors.New("entry 0 of the log is not the identity that the database states: the database was changed by hand")
	}
	return identity, nil
}

// recorderConfig is the part of intake that a server and a command share.
func (a *app) recorderConfig(db *postgres.DB, objects *s3.Store, published *batch.Log, identity receipt.Identity, keys signingKeys, promise time.Duration) intake.RecorderConfig {
	return intake.RecorderConfig{
		Log: identity.Hash(), Groups: db, Recovery: db, Checkpoints: db, Fence: objects, Published: published,
		Anchored:    db.Anchors().Anchored,
		Trustworthy: func(ctx context.Context) error { return db.CheckSettings(ctx, a.Database.AllowAsyncStandby) },
		Acknowledge: keys.acknowledgement, Statements: keys.statement,
		Promise: promise, Now: a.now, Logger: a.log,
	}
}

func (s *service) openSealer(c *serveCommand, keys signingKeys, published *batch.Log) (err error) {
	s.sealer, err = batch.NewSealer(batch.SealerConfig{
		Entries: s.db, Checkpoints: s.db, Objects: s.objects, Log: published,
		Sign: func(size uint64, root calpe.Hash) ([]byte, error) {
			return receipt.SignCheckpoint(keys.checkpoint, s.identity.Origin, size, root)
		},
		Interval: c.Sealing.Interval, MaxEntries: c.MaxEntries, Sealed: s.app.metrics.Sealed, Now: s.app.now, Logger: s.log,
	})
	return err
}

// openNodes opens the Bitcoin nodes. A log without coins may do without.
func (s *service) openNodes() (err error) {
	if !s.app.byCoins() && s.app.Bitcoin.URL == "" {
		return nil
	}
	if s.node, err = s.app.openNode(); err != nil {
		return err
	}
	s.second, err = s.app.openSecondNode()
	return err
}

// openEngine makes what anchors by coins, if the log has any.
func (s *service) openEngine(ctx context.Context, c *serveCommand, published *batch.Log) error {
	if !s.app.byCoins() {
		return nil
	}
	caps, fallback, err := c.caps()
	if err != nil {
		return err
	}
	s.caps, s.fallback, s.lowFunds = caps, fallback, c.LowFunds
	raise, err := ledger.FeeRateFromSatPerVB(c.Raise)
	if err != nil {
		return err
	}
	signer, err := s.newSigner(ctx, caps, published)
	if err != nil {
		return err
	}
	if s.anchors, err = batch.NewAnchorPublisher(batch.AnchorPublisherConfig{
		Rows: s.db.Anchors(), Objects: s.objects, Identity: s.identity, Now: s.app.now, Logger: s.log,
	}); err != nil {
		return err
	}
	s.engine, err = anchor.New(anchor.Config{
		Second: s.witness(), Network: s.identity.Network, Store: s.db.Anchors(), Node: s.node, Signer: s.app.metrics.Signer(signer), Log: s.db,
		Caps: caps, Fallback: fallback, Target: c.Target, Patience: c.Patience, Raise: raise, MinDeposit: c.MinDeposit, LowFunds: c.LowFunds,
		Interval: c.Anchoring.Interval, Depth: c.Depth, Poll: c.Poll, Now: s.app.now, Logger: s.log, StopIntake: s.recorder.Recheck,
		Reorganised: s.app.metrics.Reorganised,
	})
	return err
}

// witness is the second node; nil if there is none.
func (s *service) witness() anchor.Witness {
	if s.second == nil {
		return nil
	}
	return s.second
}

// pollsPerLook: the monitor asks less often than the engine.
const pollsPerLook = 6

// openMonitor makes what looks at the nodes, and what is shown of all parts.
func (s *service) openMonitor(c *serveCommand) (err error) {
	sources := metrics.Sources{State: s.state, Intake: s.recorder.Status, Now: s.app.now, Logger: s.log}
	if s.engine != nil {
		sources.Engine = s.engine.Status
	}
	if s.node == nil {
		return s.app.metrics.Watch(sources)
	}
	s.monitor, err = anchor.NewMonitor(anchor.MonitorConfig{
		Node: s.node, Second: s.witness(), Target: c.Target, Depth: c.Depth, Interval: pollsPerLook * c.Poll,
		Now: s.app.now, Logger: s.log,
	})
	if err != nil {
		return err
	}
	sources.Nodes = s.monitor.Status
	return s.app.metrics.Watch(sources)
}

func (s *service) openIntake(c *serveCommand, published *batch.Log) error {
	if c.MaxTime >= c.OrphanAge {
		return fmt.Errorf("an upload may take %v, and orphans are deleted after %v: the latter must be longer, or uploads are deleted while they run", c.MaxTime, c.OrphanAge)
	}
	// The last piece may begin at the end of that time, and take its own.
	if c.PiecesTime+c.MaxTime >= c.OrphanAge || c.PiecesTime < time.Minute || c.Pieces < 1 {
		return fmt.Errorf("a document may take %v in %d pieces at a time, its last piece %v more, and orphans are deleted after %v: the first must be a minute or more, with the second below the last, and the pieces 1 or more",
			c.PiecesTime, c.Pieces, c.MaxTime, c.OrphanAge)
	}
	ring, err := s.app.loadKeyring()
	if err != nil {
		return err
	}
	s.keyring = ring
	mode := s3.Compliance
	if c.RetainMode == "governance" {
		mode = s3.Governance
	}
	uploads, err := intake.NewService(intake.ServiceConfig{
		Recorder: s.recorder, Objects: s.objects, Documents: s.db, Agencies: s.db, Keys: ring, NewName: s3.NewDocumentName,
		MaxDocument: c.MaxSize, RetainFor: c.RetainFor, Now: s.app.now, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.partials, err = intake.NewPartials(intake.PartialsConfig{
		Service: uploads, Rows: s.db, Parts: s.objects, PartSize: s3.PartPlain, MaxAge: c.PiecesTime, Pieces: c.Pieces,
	})
	if err != nil {
		return err
	}
	s.retainer, err = intake.NewRetainer(intake.RetainerConfig{
		Rows: s.db, Now: s.app.now, Logger: s.log,
		Retain: func(ctx context.Context, object calpe.Object, until time.Time) error {
			return s.objects.RetainDocument(ctx, object.Name, object.VersionID, until, mode)
		},
	})
	if err != nil {
		return err
	}
	s.sweeper, err = intake.NewSweeper(intake.SweeperConfig{
		Objects: s.objects, Rows: s.db, MaxAge: c.OrphanAge, Now: s.app.now, Logger: s.log,
	})
	if err != nil {
		return err
	}
	catalog, err := intake.NewCatalog(s.db, ring)
	if err != nil {
		return err
	}
	if err := c.Accounts.check(); err != nil {
		return err
	}
	finder, err := c.finder(s.db, ring)
	if err != nil {
		return err
	}
	if err := s.openCalendar(c, uploads, published); err != nil {
		return err
	}
	s.api, err = api.New(api.Config{
		Intake: s.app.metrics.Intake(uploads), Partials: s.app.metrics.Partials(s.partials), Observe: s.app.metrics.HTTP(metrics.APIListener), Catalog: catalog, Tokens: s.db, Entries: s.db, Anchors: s.db.Anchors(), Proofs: published,
		Acknowledgements: s.recorder, Agencies: s.db, Watermarks: s, Timestamps: s.db.Proofs(), Treasury: s.treasury(), Stamping: s.stamper(), Objects: s.objects, Identity: s.identity,
		CalendarURI: c.URI, Ready: s.dependencies(), MaxDocument: c.MaxSize,
		Finder: finder, FindPerMinute: c.Finding.PerMinute, FindTotal: c.Finding.Total,
		Uploads: c.AllUploads, Accounts: c.Accounts.limits(), TrustedProxies: c.TrustedProxies,
		Pace: api.Pace{Idle: c.IdleTime, MinRate: c.MinRate, Total: c.MaxTime}, Now: s.app.now, Logger: s.log,
		Schedule: s.schedule(c),
	})
	return err
}

// schedule is how often the stages work. When calendars get their transactions
// mined is theirs to know.
func (s *service) schedule(c *serveCommand) api.Schedule {
	schedule := api.Schedule{Seal: c.Sealing.Interval, Anchor: c.Anchoring.Interval, Target: c.Target, Depth: c.Depth}
	if s.engine == nil {
		schedule.Target = 0
	}
	return schedule
}

// openCalendar makes the calendar, if this server has one.
func (s *service) openCalendar(c *serveCommand, uploads *intake.Service, published *batch.Log) (err error) {
	if err := c.Calendar.check(); err != nil || c.Calendar.Listen == "" {
		return err
	}
	s.calendar, err = api.NewCalendar(api.CalendarConfig{
		Intake: s.app.metrics.Stamps(uploads), Observe: s.app.metrics.HTTP(metrics.CalendarListener),
		Entries: s.db, Anchors: s.db.Anchors(), Timestamps: s.db.Proofs(), Proofs: published, Watermarks: s, Identity: s.identity,
		URI: c.URI, PerMinute: c.Calendar.PerMinute, Total: c.Calendar.Total, Depth: c.Depth,
		TrustedProxies: c.TrustedProxies, Now: s.app.now, Logger: s.log,
	})
	return err
}

// finder is behind /v1/find; nil if nobody may find anything.
func (f Finding) finder(rows intake.FoundRows, keys intake.Tagger) (api.Finder, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.PerMinute == 0 {
		return nil, nil
	}
	return intake.NewFinder(intake.FinderConfig{Rows: rows, Keys: keys})
}

// checkNode refuses a node of another network. A node that doesn't answer is no
// reason not to take documents: the engine goes on asking, and readyz names it.
func (s *service) checkNode(ctx context.Context, node *bitcoin.Client) error {
	err := node.CheckNetwork(ctx, s.identity.Network)
	if errors.Is(err, bitcoin.ErrUnavailable) || errors.Is(err, bitcoin.ErrWarmingUp) {
		s.log.WarnContext(ctx, "the Bitcoin node doesn't answer; anchors wait for it", slog.Any("error", err))
		return nil
	}
	if err != nil {
		return err
	}
	genesis, err := node.BlockHash(ctx, 0)
	if err == nil && !bytes.Equal(genesis[:], s.identity.Genesis[:]) {
		err = fmt.Errorf("the node's genesis block is %s, the log's is %s", genesis, s.identity.Genesis)
	}
	return err
}

// dependencies are what /readyz names.
func (s *service) dependencies() []api.Dependency {
	list := []api.Dependency{
		{Name: "postgres", Check: s.db.Ping},
		{Name: "s3", Check: func(ctx context.Context) error {
			_, _, err := s.objects.ReadFence(ctx)
			if err != nil && !errors.Is(err, calpe.ErrNotFound) { // without a fence it has answered
				return err
			}
			return s.objects.Writable(ctx)
		}},
		{Name: "intake", Check: func(context.Context) error {
			status := s.recorder.Status()
			if status.State == intake.StateJoining {
				return fmt.Errorf("%w: %w", api.ErrStarting, status.Ready())
			}
			return status.Ready()
		}},
	}
	if s.node != nil {
		list = append(list, api.Dependency{Name: "bitcoin", Check: func(ctx context.Context) error {
			_, _, err := s.node.BestBlock(ctx)
			return err
		}})
	}
	return list
}

func (s *service) close() {
	for _, node := range []*bitcoin.Client{s.node, s.second} {
		if node != nil {
			node.Close()
		}
	}
	if s.calendars != nil {
		s.calendars.Close()
	}
	if s.db != nil {
		s.db.Close()
	}
}
