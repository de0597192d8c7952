// Package views prints: one view for people on a terminal, one for people
// elsewhere, one for machines. Nothing else in the deployer prints.
package views

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/deployer"
)

// Progress shows a run as it goes. Its methods may be called concurrently;
// after Close they do nothing.
type Progress interface {
	Event(deployer.Event)
	// Pause keeps the terminal still while something else is printed.
	Pause()
	Resume()
	Close()
}

// NoProgress shows nothing.
type NoProgress struct{}

func (NoProgress) Event(deployer.Event) {}
func (NoProgress) Pause()               {}
func (NoProgress) Resume()              {}
func (NoProgress) Close()               {}

// jsonProgress prints an event a line.
type jsonProgress struct {
	mu  sync.Mutex
	enc *json.Encoder
}

// NewJSONProgress prints every event as a line of JSON.
func NewJSONProgress(w io.Writer) Progress { return &jsonProgress{enc: json.NewEncoder(w)} }

func (p *jsonProgress) Event(e deployer.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A reader that went away is no reason to stop a deployment.
	_ = p.enc.Encode(e)
}
func (p *jsonProgress) Pause()  {}
func (p *jsonProgress) Resume() {}
func (p *jsonProgress) Close()  {}

// plainProgress prints a line for what is worth keeping in a log.
type plainProgress struct {
	mu      sync.Mutex
	w       io.Writer
	started time.Time
	closed  bool
}

// NewPlainProgress prints plain lines, for files and pipes.
func NewPlainProgress(w io.Writer) Progress {
	return &plainProgress{w: w, started: time.Now()}
}

func (p *plainProgress) Event(e deployer.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text := line(e); text != "" && !p.closed {
		fmt.Fprintf(p.w, "%6.1fs  %s\n", time.Since(p.started).Seconds(), text)
	}
}
func (p *plainProgress) Pause()  {}
func (p *plainProgress) Resume() {}
func (p *plainProgress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// line returns an event as a line of text, "" if it is only worth showing live.
func line(e deployer.Event) string {
	e = cleaned(e)
	subject := e.Instance
	if subject == "" {
		subject = string(e.Phase)
	}
	switch {
	case e.Error != "":
		return fmt.Sprintf("%-16s %s failed: %s", subject, e.Step, e.Error)
	case e.Done && e.Instance != "":
		return fmt.Sprintf("%-16s %s", subject, doneText(e))
	case e.Message != "" && e.Step == "":
		return fmt.Sprintf("%-16s %s", subject, e.Message)
	}
	return ""
}

func doneText(e deployer.Event) string {
	text := map[string]string{
		"bootstrap": "agent ready", "prepare": "prepared", "update": "updated", "watch": "healthy",
		"rollback": "rolled back", "stop": "stopped", "start": "started", "restart": "restarted", "post_deploy": "post_deploy has run", "configure": "on the bus",
	}[e.Step]
	if text == "" {
		text = e.Step + " done"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// liveProgress keeps what has ended above, and one line at the bottom that says
// what is being done and waited for.
type liveProgress struct {
	mu      sync.Mutex
	w       io.Writer
	color   bool
	width   func() int
	started time.Time
	phase   deployer.Phase
	active  map[string]activity // by instance
	shown   bool
	paused  bool

	stop chan struct{}
	done chan struct{}
	once sync.Once
}

type activity struct {
	text  string
	since time.Time
}

// NewLiveProgress redraws a status line on a terminal.
func NewLiveProgress(w io.Writer, color bool, width func() int) Progress {
	p := &liveProgress{
		w: w, color: color, width: width, started: time.Now(),
		active: map[string]activity{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	go p.tick()
	return p
}

func (p *liveProgress) tick() {
	defer close(p.done)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

func (p *liveProgress) Event(e deployer.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e = cleaned(e)
	if p.phase != e.Phase {
		p.phase = e.Phase
		clear(p.active)
	}
	if e.Instance != "" {
		if e.Done || e.Error != "" {
			delete(p.active, e.Instance)
		} else {
			text := e.Step
			if e.Message != "" {
				text = e.Message
			}
			p.active[e.Instance] = activity{text: text, since: time.Now()}
		}
	}
	if text := line(e); text != "" {
		p.erase()
		mark := paint(p.color, green, "✓")
		switch {
		case e.Error != "":
			mark = paint(p.color, red, "✗")
		case !e.Done:
			mark = "·"
		}
		fmt.Fprintf(p.w, "%s %s\n", mark, text)
	}
	p.draw()
}

func (p *liveProgress) erase() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (p *liveProgress) draw() {
	if p.paused {
		return
	}
	now := time.Now()
	var parts []string
	for id, a := range p.active {
		parts = append(parts, fmt.Sprintf("%s %s (%.0fs)", id, a.text, now.Sub(a.since).Seconds()))
	}
	slices.Sort(parts)
	text := fmt.Sprintf("%s %4.0fs %s", spinner[now.UnixMilli()/100%int64(len(spinner))], now.Sub(p.started).Seconds(), p.phase)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if limit := p.width() - 1; limit > 1 && len([]rune(text)) > limit {
		text = string([]rune(text)[:limit-1]) + "…"
	}
	p.erase()
	fmt.Fprint(p.w, text)
	p.shown = true
}

func (p *liveProgress) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.paused = true
}

func (p *liveProgress) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
}

func (p *liveProgress) Close() {
	p.once.Do(func() {
		close(p.stop)
		<-p.done
		p.Pause()
	})
}
