package signer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/go-json-experiment/json"
)

// Remote is a [Signer] behind a Unix socket. Each call is a connection of its own,
// so that a signer may be restarted at any time. It doesn't retry; the engine does.
type Remote struct{ socket string }

// NewRemote makes a Remote. It contacts nothing.
func NewRemote(socket string) *Remote { return &Remote{socket: socket} }

// Status implements [Signer].
func (r *Remote) Status(ctx context.Context) (Status, error) {
	a, err := r.do(ctx, call{Method: methodStatus})
	if err == nil && a.Status == nil {
		err = errors.New("signer: the answer has no status")
	}
	if err != nil {
		return Status{}, err
	}
	return *a.Status, nil
}

// Sign implements [Signer].
func (r *Remote) Sign(ctx context.Context, req Request) ([]byte, error) {
	if err := req.validate(); err != nil {
		return nil, fmt.Errorf("ask the signer: %w", err)
	}
	a, err := r.do(ctx, call{Method: methodSign, Sign: &req})
	if err == nil && len(a.Raw) == 0 {
		err = errors.New("signer: the answer has no transaction")
	}
	return a.Raw, err
}

func (r *Remote) do(ctx context.Context, c call) (answer, error) {
	content, err := json.Marshal(c)
	if err != nil {
		return answer{}, fmt.Errorf("ask the signer: %w", err)
	}
	out, err := r.exchange(ctx, content)
	if err != nil {
		return answer{}, fmt.Errorf("ask the signer: %w", err)
	}
	a, err := parseAnswer(out)
	if err != nil {
		return answer{}, err
	}
	if a.Error != nil {
		return answer{}, a.Error.err()
	}
	return a, nil
}

func (r *Remote) exchange(ctx context.Context, content []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", r.socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a Unix socket")
	}
	// The end of the context, by time or otherwise, ends what is being waited for.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(content); err != nil {
		return nil, err
	}
	if err := conn.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(conn, maxAnswer+1))
}

// parseAnswer reads any bytes.
func parseAnswer(out []byte) (answer, error) {
	if len(out) == 0 {
		return answer{}, errors.New("signer: it closed the connection without an answer: it may not serve this user, see its log")
	}
	if len(out) > maxAnswer {
		return answer{}, fmt.Errorf("signer: an answer of more than %d bytes", maxAnswer)
	}
	var a answer
	if err := json.Unmarshal(out, &a, json.RejectUnknownMembers(true)); err != nil {
		return answer{}, fmt.Errorf("signer: read its answer: %w", err)
	}
	return a, nil
}
