package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/demo"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
	"golang.org/x/sys/unix"
)

// programs are those of Calpe itself.
type programs struct {
	Calped string `required:"" type:"existingfile" placeholder:"FILE" help:"The program calped."`
	Calpe  string `required:"" type:"existingfile" placeholder:"FILE" help:"The program calpe."`
}

func (p *programs) resolve() error {
	var err1, err2 error
	p.Calped, err1 = filepath.Abs(p.Calped)
	p.Calpe, err2 = filepath.Abs(p.Calpe)
	return errors.Join(err1, err2)
}

type demoCmd struct {
	programs
	BigSize     int64  `default:"67108864" placeholder:"BYTES" help:"Size of the big document. Default: 64 MiB."`
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"A PostgreSQL that runs already, whose user may create databases."`
	Keep        bool   `help:"Keep the folder with documents and receipts, and say where it is."`
}

func (c *demoCmd) Run(a *app) error {
	if err := c.resolve(); err != nil {
		return err
	}
	if c.BigSize < 1 {
		return errors.New("demo: the big document must have a byte")
	}
	ctx, stop := untilEnded()
	defer stop()
	dir, remove, err := throwAway(c.Keep)
	if err != nil {
		return err
	}
	defer remove()
	err = demo.Run(ctx, demo.Config{
		Dir: dir, Calped: c.Calped, Calpe: c.Calpe, DatabaseURL: c.DatabaseURL, PGBin: a.cli.PGBin, Cache: a.cache,
		BigSize: c.BigSize, Keep: c.Keep, Tools: a.builder, Out: a.cfg.Stdout, Colour: colourful(a.cfg.Stdout), Now: time.Now,
	})
	if errors.Is(err, demo.ErrFailed) { // it has said why
		return exitCode(1)
	}
	return err
}

// builder logs to log what it builds.
func (a *app) builder(log *slog.Logger) (*tools.Builder, error) {
	return tools.New(tools.Config{GoMod: a.cfg.GoMod, GoSum: a.cfg.GoSum, CacheDir: a.cache, Log: log})
}

// untilEnded returns a context that ends when we are asked to end or the
// process that started us does. A second signal then ends us at once; the
// servers end all the same.
func untilEnded() (context.Context, context.CancelFunc) {
	ctx, stop := signals()
	ctx, cancel := context.WithCancel(ctx)
	orphaned := process.WatchParent(ctx)
	go func() {
		select {
		case <-ctx.Done():
		case <-orphaned:
		}
		cancel()
		stop()
	}()
	return ctx, cancel
}

// throwAway makes a folder that is removed in the end, or by the next one who
// makes one if we can't.
func throwAway(keep bool) (dir string, remove func(), err error) {
	process.SweepDirs(os.TempDir(), tempPrefix, time.Now().Add(-time.Minute))
	prefix := tempPrefix
	if keep {
		prefix = "calpe-demo-" // never swept
	}
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", nil, fmt.Errorf("make folder: %w", err)
	}
	// Crash here: the next one removes the folder, as nobody holds its lock.
	lock, err := process.LockDir(dir)
	if err == nil {
		// As in exec: root's PostgreSQL may have to run as somebody else.
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() {
		if !keep {
			os.RemoveAll(dir)
		}
		lock.Unlock()
	}, nil
}

// colourful reports whether colours may be used: on a terminal whose user
// doesn't mind (no-color.org).
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}
