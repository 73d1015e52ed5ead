package intake

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"hash"
	"io"
	"log/slog"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/keyring"
)

// PartStore makes objects from parts. *s3.Store is one.
type PartStore interface {
	StartParts(ctx context.Context, name string) (uploadID string, err error)
	// PutPart encrypts and stores a part, durably; again replaces it.
	// [calpe.ErrNotFound]: what was started is gone.
	PutPart(ctx context.Context, at calpe.PartsPlace, key [32]byte, size int64, number int, plain []byte) (calpe.Part, error)
	// CompleteParts makes the object, durably; again is fine.
	CompleteParts(ctx context.Context, at calpe.PartsPlace, size int64, parts []calpe.Part) (calpe.Object, error)
	AbortParts(ctx context.Context, at calpe.PartsPlace) error
}

// PartialRows are the rows of documents that come in pieces. Whoever has leased
// one is the only one who can advance it. *postgres.DB is one.
type PartialRows interface {
	// CreatePartial: [calpe.ErrExists], if the owner has most of them open.
	CreatePartial(ctx context.Context, p calpe.Partial, most int) error
	Partial(ctx context.Context, id calpe.DocumentID) (calpe.Partial, error)
	// LeasePartial reads the row with its parts; held: somebody else has it.
	LeasePartial(ctx context.Context, id calpe.DocumentID, owner string, lease calpe.Lease, term time.Duration) (p calpe.Partial, held bool, err error)
	// RenewPartial, AdvancePartial: [calpe.ErrNotFound], if the lease is lost.
	RenewPartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease, term time.Duration) error
	AdvancePartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease, have int, p calpe.Progress) error
	ReleasePartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease) error
	// FinishPartial forgets the key: the document has it.
	FinishPartial(ctx context.Context, id, document calpe.DocumentID) error
	DeletePartial(ctx context.Context, id calpe.DocumentID) error
	ExpiredPartials(ctx context.Context, now time.Time, limit int) ([]calpe.Partial, error)
}

// PartialsConfig is what [Partials] need.
type PartialsConfig struct {
	Service *Service // that the documents are of when they are whole
	Rows    PartialRows
	Parts   PartStore
	// PartSize is how many bytes of a document are in a part but the last, as Parts
	// has it: a multiple of 64 KiB.
	PartSize int
	// MaxAge is how long a document may take from its beginning to its last piece.
	// It must be below the age at which orphans are swept. Default 20 h.
	MaxAge time.Duration
	// MaxOpen is how many one owner may have begun. Default 100.
	MaxOpen int
	// Pieces is how many are read at a time; each takes PartSize bytes of memory.
	// Default 16.
	Pieces int
	// Lease is how long the row of a document stays with a process that has died.
	// Default 10 s.
	Lease    time.Duration
	Interval time.Duration // between two sweeps; default 10 min
}

// Partials are documents that come in pieces: over hours, over many connections,
// to several servers. What of a piece is durable is never asked for again, and
// nothing of it is anywhere in plain text (I10): full parts are encrypted and in
// object storage, the beginning of the next part is an encrypted object of its
// own, and the running hash lies sealed in the row. Safe for concurrent use.
//
// The last byte is taken only together with the document's entry: before, a
// client that asks how far it has come is told to send the end again.
type Partials struct {
	cfg     PartialsConfig
	service *Service
	log     *slog.Logger
	buffers chan []byte // nil: it has to be made
}

// pieceStep is what the durable length of a document advances by: a chunk of the
// encryption.
const pieceStep = 64 << 10

// NewPartials makes Partials.
func NewPartials(cfg PartialsConfig) (*Partials, error) {
	if cfg.Service == nil || cfg.Rows == nil || cfg.Parts == nil || cfg.PartSize <= 0 || cfg.PartSize%pieceStep != 0 {
		return nil, errors.New("partial documents: Service, Rows and Parts must be set, and PartSize a multiple of 64 KiB")
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 20*time.Hour)
	cfg.MaxOpen, cfg.Pieces = cmp.Or(cfg.MaxOpen, 100), cmp.Or(cfg.Pieces, 16)
	cfg.Lease, cfg.Interval = cmp.Or(cfg.Lease, 10*time.Second), cmp.Or(cfg.Interval, 10*time.Minute)
	if cfg.MaxAge < 0 || cfg.MaxOpen < 0 || cfg.Pieces < 0 || cfg.Lease < time.Second || cfg.Interval < 0 {
		return nil, errors.New("partial documents: MaxAge, MaxOpen, Pieces and Interval must be positive, and Lease 1 s or more")
	}
	p := &Partials{cfg: cfg, service: cfg.Service, log: cfg.Service.log, buffers: make(chan []byte, cfg.Pieces)}
	for range cfg.Pieces {
		p.buffers <- nil
	}
	return p, nil
}

// NewPartial is what a client says of a document before it sends the first piece.
type NewPartial struct {
	Owner          string
	Size           int64 // bytes
	Name           string
	MediaType      string
	IdempotencyKey string        // as in [Upload]
	ExpectedDigest *calpe.Digest // as in [Upload]
	Certification  []byte        // as in [Upload]
	Metadata       string        // as the client wrote it, to be given back
}

func (n NewPartial) upload() Upload {
	return Upload{Owner: n.Owner, Name: n.Name, MediaType: n.MediaType, IdempotencyKey: n.IdempotencyKey,
		ExpectedDigest: n.ExpectedDigest, Certification: n.Certification}
}

// PartialStatus says how far a document has come.
type PartialStatus struct {
	ID       calpe.DocumentID
	Size     int64
	Received int64 // bytes that are durable; Size: the document is recorded
	Expires  time.Time
	Document calpe.DocumentID // that it has become; zero: not yet
	Metadata string           // of [NewPartial], until it is recorded
}

func statusOf(row calpe.Partial) PartialStatus {
	return PartialStatus{ID: row.ID, Size: row.Size, Received: row.Received, Expires: row.Expires, Document: row.Document}
}

// Begin makes place for a document. It judges what can be judged before there is
// a byte of it.
func (p *Partials) Begin(ctx context.Context, n NewPartial) (PartialStatus, error) {
	u, s := n.upload(), p.service
	switch {
	case n.Owner == "":
		return PartialStatus{}, calpe.Errorf(calpe.CodeInternal, "an upload needs an owner")
	case n.Size < 1:
		return PartialStatus{}, calpe.Errorf(calpe.CodeEmptyDocument, "the document is empty")
	case n.Size > s.cfg.MaxDocument:
		return PartialStatus{}, calpe.Errorf(calpe.CodeTooLarge, "the document has more than %d bytes", s.cfg.MaxDocument)
	}
	if err := errors.Join(u.checkFields(), s.cfg.Recorder.ready()); err != nil {
		return PartialStatus{}, err
	}
	if _, err := s.checkCertification(ctx, n.Certification); err != nil {
		return PartialStatus{}, err
	}
	row, err := p.newRow(ctx, n)
	if err != nil {
		return PartialStatus{}, err
	}
	// Crash here: an upload without parts, which the sweep of stale uploads gives up.
	err = p.cfg.Rows.CreatePartial(ctx, row, p.cfg.MaxOpen)
	if err == nil {
		return statusOf(row), nil
	}
	p.discard(ctx, row)
	if errors.Is(err, calpe.ErrExists) {
		return PartialStatus{}, calpe.Errorf(calpe.CodeTooManyRequests, "%d uploads of this account are begun and not finished", p.cfg.MaxOpen)
	}
	return PartialStatus{}, unavailable(err)
}

func (p *Partials) newRow(ctx context.Context, n NewPartial) (calpe.Partial, error) {
	now := p.service.cfg.Now().UTC().Truncate(time.Second)
	row := calpe.Partial{ID: newDocumentID(), Owner: n.Owner, Size: n.Size, Created: now, Expires: now.Add(p.cfg.MaxAge)}
	key, wrapped, err := p.service.cfg.Keys.NewDataKey(row.ID.String())
	if err != nil {
		return calpe.Partial{}, &calpe.Error{Code: calpe.CodeInternal, Message: "no data key could be made", Err: err}
	}
	row.KeyID, row.Wrapped = wrapped.KeyID, wrapped.Bytes
	if row.Sealed, err = seal(key, requestID(row.ID), sealedPartial{n.Name, n.MediaType, n.IdempotencyKey, n.ExpectedDigest, n.Certification, n.Metadata}); err != nil {
		return calpe.Partial{}, err
	}
	if row.State, err = sealState(key, row.ID, newRunning(), nil); err != nil {
		return calpe.Partial{}, err
	}
	row.Place.Object = p.service.cfg.NewName()
	if row.Place.Upload, err = p.cfg.Parts.StartParts(ctx, row.Place.Object); err != nil {
		return calpe.Partial{}, storeError(err, nil)
	}
	return row, nil
}

// Status says how far a document of that owner has come. [calpe.CodeNotFound]: there
// is none, or its time is over.
func (p *Partials) Status(ctx context.Context, id calpe.DocumentID, owner string) (PartialStatus, error) {
	row, err := p.cfg.Rows.Partial(ctx, id)
	if err == nil && (row.Owner != owner || p.expired(row)) {
		err = calpe.ErrNotFound
	}
	if err != nil {
		return PartialStatus{}, partialError(id, err)
	}
	if err := p.settle(ctx, &row); err != nil {
		return PartialStatus{}, err
	}
	status := statusOf(row)
	status.Metadata, err = p.metadata(row)
	return status, err
}

// metadata is what the client wrote, as long as the document isn't recorded.
func (p *Partials) metadata(row calpe.Partial) (string, error) {
	if !row.Document.IsZero() {
		return "", nil
	}
	key, err := p.service.cfg.Keys.Unwrap(row.ID.String(), keyring.Wrapped{KeyID: row.KeyID, Bytes: row.Wrapped})
	if err != nil {
		return "", damaged(row.ID, err)
	}
	var request sealedPartial
	if err := open(key, requestID(row.ID), row.Sealed, &request); err != nil {
		return "", damaged(row.ID, err)
	}
	return request.Metadata, nil
}

func (p *Partials) expired(row calpe.Partial) bool { return !p.service.cfg.Now().Before(row.Expires) }

// settle finds out whether the document was recorded by a process that died
// before it could say so here.
func (p *Partials) settle(ctx context.Context, row *calpe.Partial) error {
	if !row.Document.IsZero() {
		return nil
	}
	_, err := p.service.cfg.Documents.Document(ctx, row.ID)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil
	}
	if err != nil {
		return unavailable(err)
	}
	if err := p.cfg.Rows.FinishPartial(ctx, row.ID, row.ID); err != nil {
		return unavailable(err)
	}
	row.Document, row.Received = row.ID, row.Size
	return nil
}

// Recorded is the answer for a document that has come whole: what [Service.Upload]
// would have said. [calpe.CodeNotFound]: it hasn't.
func (p *Partials) Recorded(ctx context.Context, id calpe.DocumentID, owner string) (Uploaded, error) {
	status, err := p.Status(ctx, id, owner)
	if err != nil {
		return Uploaded{}, err
	}
	if status.Document.IsZero() {
		return Uploaded{}, calpe.Errorf(calpe.CodeNotFound, "the upload %v is not complete", id)
	}
	document, err := p.service.Document(ctx, status.Document, owner)
	if err != nil {
		return Uploaded{}, err
	}
	acknowledgement, err := p.service.cfg.Recorder.AcknowledgementOf(ctx, document.Index)
	return Uploaded{document, acknowledgement, true}, err
}

// Abandon gives a document up: its key is destroyed, then its parts are removed.
// [calpe.CodeLocked]: somebody is adding to it.
func (p *Partials) Abandon(ctx context.Context, id calpe.DocumentID, owner string) error {
	row, lease, err := p.lease(ctx, id, owner)
	if err != nil {
		return err
	}
	err = p.remove(ctx, row)
	if err != nil {
		p.release(ctx, id, lease)
	}
	return err
}

// remove forgets the row, and discards what it names.
func (p *Partials) remove(ctx context.Context, row calpe.Partial) error {
	if err := p.cfg.Rows.DeletePartial(ctx, row.ID); err != nil {
		return unavailable(err)
	}
	// Crash here: parts and a tail that nobody can read. The sweeps remove them.
	p.discard(ctx, row)
	return nil
}

// discard removes parts and tail that no row names any more.
func (p *Partials) discard(ctx context.Context, row calpe.Partial) {
	if row.Document.IsZero() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.service.cfg.DiscardTimeout)
		defer cancel()
		if err := p.cfg.Parts.AbortParts(ctx, row.Place); err != nil {
			p.log.WarnContext(ctx, "parts of an upload are left to the sweep", slog.String("object", row.Place.Object), slog.Any("error", err))
		}
	}
	if row.Tail != "" {
		p.service.discard(ctx, row.Tail)
	}
}

// lease takes the row for this process.
func (p *Partials) lease(ctx context.Context, id calpe.DocumentID, owner string) (calpe.Partial, calpe.Lease, error) {
	var lease calpe.Lease
	rand.Read(lease[:]) // never fails: see crypto/rand
	row, held, err := p.cfg.Rows.LeasePartial(ctx, id, owner, lease, p.cfg.Lease)
	switch {
	case err != nil:
		return calpe.Partial{}, lease, partialError(id, err)
	case held:
		return calpe.Partial{}, lease, calpe.Errorf(calpe.CodeLocked, "another request is adding to the upload %v", id)
	case p.expired(row):
		p.release(ctx, id, lease)
		return calpe.Partial{}, lease, partialError(id, calpe.ErrNotFound)
	}
	return row, lease, nil
}

func (p *Partials) release(ctx context.Context, id calpe.DocumentID, lease calpe.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.service.cfg.DiscardTimeout)
	defer cancel()
	if err := p.cfg.Rows.ReleasePartial(ctx, id, lease); err != nil {
		p.log.WarnContext(ctx, "an upload stays locked until its lease ends", slog.Any("error", err))
	}
}

// keep renews the lease until the returned function is called. lost ends the work
// if somebody else may have it: the row then refuses whatever this one has done.
func (p *Partials) keep(ctx context.Context, id calpe.DocumentID, lease calpe.Lease, lost context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(p.cfg.Lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := p.cfg.Rows.RenewPartial(ctx, id, lease, p.cfg.Lease); errors.Is(err, calpe.ErrNotFound) {
				lost(leaseError(id, err))
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// leaseError is the error of a change that names a lease which isn't held any more.
func leaseError(id calpe.DocumentID, err error) error {
	if errors.Is(err, calpe.ErrNotFound) {
		return &calpe.Error{Code: calpe.CodeLocked, Message: "another request has taken over the upload " + id.String(), Err: err}
	}
	return unavailable(err)
}

func partialError(id calpe.DocumentID, err error) error {
	if errors.Is(err, calpe.ErrNotFound) {
		return &calpe.Error{Code: calpe.CodeNotFound, Message: "there is no upload " + id.String() + ", or its time is over; begin a new one", Err: err}
	}
	return unavailable(err)
}

// Run gives up what has expired, at every interval until ctx is done, which gives
// nil. Failures are logged and tried again.
func (p *Partials) Run(ctx context.Context) error {
	every(ctx, p.cfg.Interval, func() {
		if _, err := p.Sweep(ctx); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "some expired uploads could not be given up, will be tried again", slog.Any("error", err))
		}
	})
	return nil
}

// Sweep gives up what has expired by now, and gives how many that were.
func (p *Partials) Sweep(ctx context.Context) (removed int, err error) {
	const page = 100
	for {
		rows, err := p.cfg.Rows.ExpiredPartials(ctx, p.service.cfg.Now(), page)
		if err != nil {
			return removed, err
		}
		for _, row := range rows {
			if err := p.remove(ctx, row); err != nil {
				return removed, err
			}
			removed++
		}
		if len(rows) < page || ctx.Err() != nil {
			return removed, ctx.Err()
		}
	}
}

// Piece is the next piece of a document.
type Piece struct {
	ID     calpe.DocumentID
	Owner  string
	Offset int64     // of its first byte in the document
	Body   io.Reader // as in [Upload]
	// Hash and Sum, if set: the hash of the whole piece must give the sum, or nothing
	// of it is kept.
	Hash hash.Hash
	Sum  []byte
}

// pieceWait is how long a piece waits for its turn before it is refused.
const pieceWait = 5 * time.Second

// Append takes the next piece, and says how far the document has come with it.
// With the last piece the document is recorded, as [Service.Upload] does it.
//
// What came of a piece that is cut in the middle is kept up to a multiple of
// 64 KiB, unless it has a sum. A piece that isn't cut must bring as much, or the
// end. Errors: [calpe.CodeOffset], [calpe.CodeLocked], [calpe.CodeChecksum],
// [calpe.CodeNotFound], and those of Upload: a document that isn't what was said of
// it is given up. After [calpe.CodeUnavailable] the client may ask how far it has
// come, and go on.
func (p *Partials) Append(ctx context.Context, piece Piece) (PartialStatus, error) {
	if err := p.service.cfg.Recorder.ready(); err != nil {
		return PartialStatus{}, err
	}
	buf, err := p.buffer(ctx)
	if err != nil {
		return PartialStatus{}, err
	}
	defer func() { p.buffers <- buf }()
	row, lease, err := p.lease(ctx, piece.ID, piece.Owner)
	if err != nil {
		return PartialStatus{}, err
	}
	defer p.release(ctx, piece.ID, lease)
	if err := p.settle(ctx, &row); err != nil {
		return PartialStatus{}, err
	}
	if piece.Offset != row.Received {
		return statusOf(row), calpe.Errorf(calpe.CodeOffset, "the piece begins at %d, and the upload has come to %d", piece.Offset, row.Received)
	}
	if !row.Document.IsZero() {
		return statusOf(row), nil
	}
	// What has come is stored also when the client has gone.
	work, lost := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lost(nil)
	defer p.keep(work, row.ID, lease, lost)()
	a := &assembly{Partials: p, row: row, lease: lease, buf: buf, body: &bodyReader{r: piece.Body}, piece: piece}
	err = a.run(work)
	return statusOf(a.row), err
}

// buffer takes one, in which the next part is collected.
func (p *Partials) buffer(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pieceWait)
	defer cancel()
	select {
	case buf := <-p.buffers:
		if buf == nil {
			buf = make([]byte, p.cfg.PartSize)
		}
		return buf, nil
	case <-ctx.Done():
		return nil, calpe.Errorf(calpe.CodeTooManyRequests, "%d pieces of documents are being read already", p.cfg.Pieces)
	}
}
