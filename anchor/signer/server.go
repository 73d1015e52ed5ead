package signer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	// callTime is the longest that a connection may take, both ways.
	callTime = 30 * time.Second
	// maxConns bounds the connections that are served at once.
	maxConns = 4
)

// ServerConfig of a [Server].
type ServerConfig struct {
	Signer Signer
	// Users are the numbers of the users whose processes may ask for anything.
	Users  []uint32
	Logger *slog.Logger
}

// Server answers for a [Signer] on a Unix socket.
type Server struct{ cfg ServerConfig }

// NewServer checks the configuration.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Signer == nil || len(cfg.Users) == 0 {
		return nil, errors.New("signer server lacks its signer, or users to serve")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg}, nil
}

// Serve answers until the context ends, then waits for the answers under way, and
// returns nil. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, maxConns)
	for {
		free <- struct{}{}
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept connection: %w", err), listener.Close())
		}
		running.Go(func() {
			defer func() { <-free }()
			s.serve(ctx, conn)
		})
	}
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	user, err := peerUser(conn)
	if err != nil || !slices.Contains(s.cfg.Users, user) {
		s.cfg.Logger.ErrorContext(ctx, "refused a connection", slog.Uint64("user", uint64(user)), slog.Any("cause", err))
		return
	}
	if err := conn.SetDeadline(time.Now().Add(callTime)); err != nil {
		s.cfg.Logger.WarnContext(ctx, "can't limit a connection's time", slog.String("cause", err.Error()))
		return
	}
	// A shutdown waits for no call that isn't there yet.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	content, err := io.ReadAll(io.LimitReader(conn, maxCall+1))
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "can't read a call", slog.String("cause", err.Error()))
		return
	}
	out, err := json.Marshal(s.answer(ctx, content))
	if err == nil {
		_, err = conn.Write(out)
	}
	if err != nil {
		// The signature is lost for the engine, which asks again.
		s.cfg.Logger.WarnContext(ctx, "can't answer a call", slog.String("cause", err.Error()))
	}
}

// answer never fails: any bytes give an answer.
func (s *Server) answer(ctx context.Context, content []byte) answer {
	c, err := parseCall(content)
	if err != nil {
		return answer{Error: newFailure(err)}
	}
	if c.Method == methodStatus {
		status, err := s.cfg.Signer.Status(ctx)
		if err != nil {
			return answer{Error: newFailure(err)}
		}
		return answer{Status: &status}
	}
	raw, err := s.cfg.Signer.Sign(ctx, *c.Sign)
	if err != nil {
		return answer{Error: newFailure(err)}
	}
	return answer{Raw: raw}
}
