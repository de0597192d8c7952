package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// leaveCommand is the first argument by which a node's program has the node's instances
// moved away before the node is removed. The agent runs it as the hook pre_stop, while
// the node still serves.
const leaveCommand = "leave"

const (
	leavePause  = time.Second      // between two questions how far it is
	leaveAnswer = 30 * time.Second // in which the gateway answers one
	leaveSilent = 3 * time.Minute  // for how long the gateway may be away
)

// leave is heard when the node shall be removed, or after all shall not: meanwhile it
// takes no new instance.
func (n *Node) leave(m *nats.Msg) {
	l, err := wire.ParseServiceLeave(m.Data)
	if err != nil {
		n.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	if l.Stays {
		err = n.reload()
		n.base.Log().Info("the node stays", "error", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.config.Disabled {
		n.base.Log().Info("the node shall be removed and takes no new instance")
	}
	n.config.Disabled = true
}

// Leave has the gateway move all instances of the node with this configuration file to
// other nodes, and returns when none is left. next is DEPLOY_NEXT: only where it says
// that the node shall be removed is there anything to do. An error says why the node
// cannot be removed; it serves as before then.
func Leave(ctx context.Context, file, service, next string, out io.Writer) error {
	if next != "scale_in" && next != "delete" {
		return nil
	}
	var cfg Config
	if _, err := component.Load(file, &cfg); err != nil {
		return err
	}
	things, err := Census(file, service)
	if errors.Is(err, os.ErrNotExist) { // who confirmed the removal was told that nobody knows what is there
		fmt.Fprintf(out, "nothing moves: %v\n", err)
		return nil
	}
	if err != nil || len(things) == 0 {
		return err
	}
	if cfg.MigrationNFS == "" {
		fmt.Fprintf(out, "%d instances stay on the disk of %s: the property migration_nfs is not set, through which they could move\n", len(things), cfg.NodeID)
		return nil
	}
	conn, _, err := component.Visit(ctx, cfg.Config, component.Process{Address: os.Getenv("DEPLOY_ADDRESS")})
	if err != nil {
		return err
	}
	defer conn.Close()
	l := leaver{conn, wire.ServiceNodeSubject(wire.ServicePrefix(service), wire.ServiceLeaveNode, cfg.NodeID), cfg.NodeID, out}
	if err := l.run(ctx); err != nil {
		stays, _ := json.Marshal(wire.ServiceLeave{Stays: true}) // a struct without anything that could fail
		return errors.Join(err, conn.Publish(l.subject, stays), conn.FlushTimeout(leaveAnswer))
	}
	return nil
}

// leaver asks the gateway until nothing is left on a node.
type leaver struct {
	conn          *nats.Conn
	subject, node string
	out           io.Writer
}

func (l leaver) run(ctx context.Context) error {
	var asked wire.ServiceLeave
	said, heard := "", time.Now()
	for {
		answer, err := l.ask(ctx, asked)
		switch {
		case err != nil && time.Since(heard) < leaveSilent && ctx.Err() == nil:
			// A gateway that begins again goes on with the move that is in progress.
		case err != nil:
			return fmt.Errorf("cannot move the instances of %s away: %w; deploy again when the gateway runs, or stop the node first with deploy stop --skip-drain, and what is on it goes with its disk", l.node, err)
		case answer.Refused != "":
			return fmt.Errorf("%d instances are still on %s: %s; make room on another node and deploy again, or stop this one first with deploy stop --skip-drain, and what is on it goes with its disk", answer.Left, l.node, answer.Refused)
		case answer.Left == 0:
			fmt.Fprintf(l.out, "nothing is left on %s\n", l.node)
			return nil
		default:
			heard = time.Now()
			if text := fmt.Sprintf("moving %s to %s; %d left on %s\n", answer.Moving, answer.To, answer.Left, l.node); text != said {
				said = text
				fmt.Fprint(l.out, text)
			}
			asked.Asked, asked.Move = answer.Moving, answer.Move
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait until the instances of %s have moved: %w", l.node, context.Cause(ctx))
		case <-time.After(leavePause):
		}
	}
}

func (l leaver) ask(ctx context.Context, asked wire.ServiceLeave) (wire.ServiceLeaving, error) {
	doc, err := json.Marshal(asked)
	if err != nil {
		return wire.ServiceLeaving{}, fmt.Errorf("cannot write the question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, leaveAnswer)
	defer cancel()
	m, err := l.conn.RequestWithContext(ctx, l.subject, doc)
	if err != nil {
		return wire.ServiceLeaving{}, fmt.Errorf("the gateway does not answer: %w", err)
	}
	return wire.ParseServiceLeaving(m.Data)
}

// errand does what a node's program is asked for by its first argument; false: it is to
// be the node.
func errand(d Definition, args []string) (status int, is bool) {
	if len(args) != 4 || args[2] != "-c" {
		return 0, false
	}
	var err error
	switch args[1] {
	case censusCommand:
		var things []wire.Thing
		if things, err = Census(args[3], d.Name); err == nil {
			err = wire.WriteCensus(os.Stdout, things)
		}
	case leaveCommand:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = Leave(ctx, args[3], d.Name, os.Getenv("DEPLOY_NEXT"), os.Stdout)
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s_node: %v\n", d.Name, err)
		return 1, true
	}
	return 0, true
}
