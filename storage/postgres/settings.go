package postgres

import (
	"context"
	"errors"
	"fmt"
)

// minServerVersion is the oldest PostgreSQL that is still maintained and tested.
const minServerVersion = 140000

// settings are what decides whether the server keeps what it has committed.
type settings struct {
	version           int
	versionText       string
	fsync             bool
	fullPageWrites    bool
	synchronousCommit string
	standby           bool
	standbys          int    // connected
	synchronousNames  string // which of them COMMIT waits for
}

// settingsSQL counts as standbys all that receive WAL, but for those that only
// keep it: nothing fails over to a base backup or an archive. They are told by
// the names that these programs give themselves, since their state is hidden from
// an ordinary role.

const settingsSQL = `
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('fsync')::bool, current_setting('full_page_writes')::bool,
       current_setting('synchronous_commit'), pg_is_in_recovery(),
       (SELECT count(*) FROM pg_stat_replication WHERE application_name NOT IN ('pg_basebackup', 'pg_receivewal')),
       regexp_replace(current_setting('synchronous_standby_names'), '\m(first|any|pg_receivewal)\M|[0-9\s,()"]', '', 'gi')`

// CheckSettings refuses a server on which a commit can be lost that was
// answered. Each refusal is a sentence that says what is wrong, why it matters
// and what to do; all of them are reported at once. With allowAsyncStandby the
// operator accepts that a failover to an asynchronous standby loses the last
// commits, which recovery then declares.
func (db *DB) CheckSettings(ctx context.Context, allowAsyncStandby bool) error {
	var s settings
	if err := db.on(ctx).QueryRow(ctx, settingsSQL).Scan(s.columns()...); err != nil {
		return translate("read database settings", err)
	}
	return s.check(allowAsyncStandby)
}

// columns are those of settingsSQL.
func (s *settings) columns() []any {
	return []any{&s.version, &s.versionText, &s.fsync, &s.fullPageWrites,
		&s.synchronousCommit, &s.standby, &s.standbys, &s.synchronousNames}
}

func (s settings) check(allowAsyncStandby bool) error {
	var refusals []error
	refuse := func(format string, args ...any) { refusals = append(refusals, fmt.Errorf(format, args...)) }
	if s.version < minServerVersion {
		refuse("PostgreSQL %s is older than 14, which nobody repairs any more: upgrade the server", s.versionText)
	}
	if s.standby {
		refuse("the server is a standby, which can't commit: connect to the primary (target_session_attrs=read-write finds it)")
	}
	if !s.fsync {
		refuse("fsync is off, so a power cut loses commits that were answered: set fsync = on and restart PostgreSQL")
	}
	if !s.fullPageWrites {
		refuse("full_page_writes is off, so a power cut can tear pages of the log: set full_page_writes = on and reload PostgreSQL")
	}
	if s.synchronousCommit != "on" {
		refuse("synchronous_commit is %s although this session asked for on: "+
			"connect straight to PostgreSQL, or through a pooler in session mode", s.synchronousCommit)
	}
	if s.standbys > 0 && s.synchronousNames == "" && !allowAsyncStandby {
		refuse("%d standbys are connected and synchronous_standby_names is empty, so a failover loses commits that were answered: "+
			"name a synchronous standby, or allow asynchronous ones and accept that loss", s.standbys)
	}
	return errors.Join(refusals...)
}
