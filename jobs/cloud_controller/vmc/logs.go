package vmc

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// logFlags describe what of logs is shown.
type logFlags struct {
	instance        string
	follow, staging bool
	all, times      bool
	lines           int
	since           time.Duration
}

func logsCommand(v *vmc) *cobra.Command {
	var flags logFlags
	c := v.appsOf(&cobra.Command{
		Use:   "logs APP",
		Short: "Show an app's logs",
		Long: `logs shows what an instance of an app prints: by default the log files of the first
instance, one after the other; of a stopped app, those of the last one that ran.
With --all it shows the lines of all instances, also of those that crashed or were
stopped in the last hour, and of the requests that the routers remember, sorted by
time; it works for stopped apps, too. Each line begins
with its time, its instance and its stream: OUT and ERR are the app's, DEA the
cloud's, RTR a router's.
-n, --since and --timestamps show the lines of one instance in the same way.`,
		Example: "  vmc logs hello\n  vmc logs -f hello --instance 2\n  vmc logs hello --all -n 100\n  vmc logs hello --since 10m\n  vmc logs hello --staging",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		app, err := c.App(ctx, args[0])
		if err != nil {
			return err
		}
		switch {
		case flags.staging:
			return v.printLogs(ctx, c, args[0], flags.instance, []string{"logs/staging.log"})
		case flags.all || flags.times || flags.lines > 0 || flags.since > 0 || v.json:
			return v.mergedLogs(ctx, c, app, flags)
		case flags.follow:
			return v.follow(ctx, c, args[0], flags.instance, []string{"logs/stdout.log", "logs/stderr.log"})
		}
		return v.printLogs(ctx, c, args[0], flags.instance, []string{"logs/stderr.log", "logs/stdout.log", "logs/err.log"})
	})
	f := c.Flags()
	f.StringVar(&flags.instance, "instance", "0", "`index` of the instance, or the id of one that crashed or was stopped")
	f.BoolVarP(&flags.follow, "follow", "f", false, "follow the logs")
	f.Bool("recent", false, "show what there is and end, as without -f")
	f.BoolVar(&flags.staging, "staging", false, "show the log of the app's staging instead")
	f.BoolVar(&flags.all, "all", false, "show all instances, including crashed and stopped ones")
	f.BoolVarP(&flags.times, "timestamps", "t", false, "show the time of each line")
	f.IntVarP(&flags.lines, "lines", "n", 0, "show only the last `lines`")
	f.DurationVar(&flags.since, "since", 0, "show only lines of the last `time`, such as 10m")
	return c
}

// logLine is a line that an instance has printed.
type logLine struct {
	At       time.Time `json:"at"` // zero: not known
	Instance string    `json:"instance"`
	Stream   string    `json:"stream"` // OUT, ERR, DEA for what the cloud says, RTR for a request
	Text     string    `json:"text"`
}

// streams are the files of an instance's output.
var streams = []struct{ file, name string }{{"stdout.log", "OUT"}, {"stderr.log", "ERR"}, {"err.log", "DEA"}}

// mergedLogs shows lines sorted by time.
func (v *vmc) mergedLogs(ctx context.Context, c *client.Client, app client.App, flags logFlags) error {
	begin := time.Now()
	var seen shownLines
	for first := true; ; first = false {
		instances, err := v.instancesOf(ctx, c, app, flags)
		if err != nil {
			return err
		}
		var lines []logLine
		var failed error
		read := 0
		for _, instance := range instances {
			some, err := linesOf(ctx, c, app.Name, instance)
			if err != nil {
				failed = cmp.Or(failed, err)
				continue
			}
			read++
			lines = append(lines, some...)
		}
		if flags.all && ctx.Err() == nil {
			routed, silent, err := requestsOf(ctx, c, app.Name)
			if err != nil && !flags.follow {
				return err
			}
			if silent > 0 && first {
				v.say("Note: %d of the routers did not answer; requests through them are missing.", silent)
			}
			lines = append(lines, routed...)
		}
		if ctx.Err() != nil && flags.follow {
			return nil // that is how it ends
		}
		if read == 0 && len(lines) == 0 && failed != nil && !flags.follow {
			return failed
		}
		slices.SortStableFunc(lines, func(a, b logLine) int { return a.At.Compare(b.At) })
		lines = seen.news(lines)
		if flags.since > 0 {
			lines = slices.DeleteFunc(lines, func(l logLine) bool { return l.At.Before(begin.Add(-flags.since)) })
		}
		if first && flags.lines > 0 {
			lines = lines[max(0, len(lines)-flags.lines):]
		}
		if err := v.printLines(lines, flags); err != nil {
			return err
		}
		if !flags.follow {
			return nil
		}
		if seen.last.IsZero() {
			seen.last = begin
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// requestsOf returns the last requests to an app as lines. A cloud that does not know
// them has none. silent is how many routers have not told theirs.
func requestsOf(ctx context.Context, c *client.Client, app string) (lines []logLine, silent int, err error) {
	requests, silent, err := c.Requests(ctx, app)
	if unknownToCloud(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	for _, r := range requests {
		status := strconv.Itoa(r.Status)
		if r.Status == 0 {
			status = "-"
		}
		// A stranger wrote the URI: nothing in it is to be a terminal's control.
		uri := strings.Trim(strconv.QuoteToASCII(r.URI), `"`)
		lines = append(lines, logLine{r.At, cmp.Or(r.Index, "-"), "RTR",
			fmt.Sprintf("%s %s%s %s, %d bytes, %.1f ms, from %s, id %s", r.Method, r.Host, uri, status, r.Bytes, r.Took, r.Client, r.ID)})
	}
	return lines, silent, nil
}

// late is the time by which a line may be older than what was shown and is shown all the
// same: an instance that is replaced is read again only when it has ended.
const late = 5 * time.Minute

// shownLines remember which lines were shown, wherever they were read.
type shownLines struct {
	last time.Time // of the newest
	seen map[shownLine]int
}

// shownLine is what of a line does not change when its instance ends.
type shownLine struct {
	at           int64 // Unix nanoseconds
	stream, text string
}

// news returns those of all lines there are that were not shown, for which they count
// from now on.
func (s *shownLines) news(lines []logLine) (fresh []logLine) {
	now, oldest := map[shownLine]int{}, s.last.Add(-late)
	for _, l := range lines {
		if !s.last.IsZero() && l.At.Before(oldest) {
			continue
		}
		key := shownLine{l.At.UnixNano(), l.Stream, l.Text}
		if now[key]++; now[key] > s.seen[key] {
			fresh = append(fresh, l)
		}
	}
	for _, l := range fresh {
		if l.At.After(s.last) {
			s.last = l.At
		}
	}
	oldest = s.last.Add(-late)
	for key, n := range s.seen {
		if key.at >= oldest.UnixNano() {
			now[key] = max(now[key], n)
		}
	}
	s.seen = now
	return fresh
}

// instancesOf returns indices and ids of the instances whose lines are wanted.
func (v *vmc) instancesOf(ctx context.Context, c *client.Client, app client.App, flags logFlags) ([]string, error) {
	if !flags.all {
		return []string{flags.instance}, nil
	}
	var all []string
	running, err := c.Instances(ctx, app.Name)
	if err != nil {
		return nil, err
	}
	for _, i := range running {
		if i.State == client.Running || i.State == client.Starting {
			all = append(all, strconv.Itoa(i.Index))
		}
	}
	ended, err := c.Ended(ctx, app.Name)
	if unknownToCloud(err) {
		crashes, err := c.Crashes(ctx, app.Name)
		for _, crash := range crashes {
			all = append(all, crash.Instance)
		}
		return all, err
	}
	for _, one := range ended {
		all = append(all, one.Instance)
	}
	return all, err
}

// listed is the name of a file in the list of a folder.
var listed = regexp.MustCompile(`(?m)^(\S+) +\S+$`)

// linesOf reads all that is kept of an instance's output.
func linesOf(ctx context.Context, c *client.Client, app, instance string) ([]logLine, error) {
	list, err := readFile(ctx, c, app, instance, "logs/")
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, m := range listed.FindAllSubmatch(list, -1) {
		there[string(m[1])] = true
	}
	label := instance
	if len(label) == 32 { // an id
		label = label[:8]
	}
	var lines []logLine
	for _, stream := range streams {
		// The oldest first.
		names := []string{stream.file}
		for i := 1; there[fmt.Sprintf("%s.%d", stream.file, i)]; i++ {
			names = append(names, fmt.Sprintf("%s.%d", stream.file, i))
		}
		for _, name := range slices.Backward(names) {
			if !there[name] {
				continue
			}
			text, err := readFile(ctx, c, app, instance, "logs/"+name)
			if err != nil {
				return nil, err
			}
			if stream.name == "DEA" {
				lines = append(lines, noted(text, label)...)
				continue
			}
			base, number, _ := strings.Cut(name, ".log")
			times := base + ".log.times" + number
			var marks []byte
			if there[times] {
				if marks, err = readFile(ctx, c, app, instance, "logs/"+times); err != nil {
					return nil, err
				}
			}
			lines = append(lines, timed(text, parseMarks(marks), label, stream.name)...)
		}
	}
	return lines, nil
}

// maxLogFile is the number of bytes of a file of output that are read.
const maxLogFile = 64 << 20

func readFile(ctx context.Context, c *client.Client, app, instance, name string) ([]byte, error) {
	text, err := c.File(ctx, app, instance, name, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(text, maxLogFile))
	return data, errors.Join(err, text.Close())
}

// mark says when what begins at an offset was printed.
type mark struct {
	offset int64
	at     time.Time
}

// parseMarks reads lines "OFFSET MILLISECONDS"; what is none is left out.
func parseMarks(data []byte) []mark {
	var marks []mark
	for line := range bytes.Lines(data) {
		offset, at, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		o, err := strconv.ParseInt(offset, 10, 64)
		ms, err2 := strconv.ParseInt(at, 10, 64)
		if err == nil && err2 == nil && (len(marks) == 0 || marks[len(marks)-1].offset <= o) {
			marks = append(marks, mark{o, time.UnixMilli(ms).UTC()})
		}
	}
	return marks
}

// timed makes lines of a file of output: a line's time is that of its beginning.
func timed(text []byte, marks []mark, instance, stream string) []logLine {
	var lines []logLine
	at, next := int64(0), 0
	var now time.Time
	for line := range bytes.Lines(text) {
		for next < len(marks) && marks[next].offset <= at {
			now = marks[next].at
			next++
		}
		lines = append(lines, logLine{now, instance, stream, strings.TrimRight(string(line), "\r\n")})
		at += int64(len(line))
	}
	return lines
}

// noted makes lines of what the cloud wrote, each of which begins with its time.
func noted(text []byte, instance string) []logLine {
	var lines []logLine
	var now time.Time
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		if first, rest, ok := strings.Cut(line, " "); ok {
			if at, err := time.Parse(time.RFC3339, first); err == nil {
				now, line = at, rest
			}
		}
		lines = append(lines, logLine{now, instance, "DEA", line})
	}
	return lines
}

func (v *vmc) printLines(lines []logLine, flags logFlags) error {
	if v.json {
		for _, l := range lines { // a line each, so that they can be followed
			if err := v.printJSONLine(l); err != nil {
				return err
			}
		}
		return nil
	}
	out := bufio.NewWriter(v.out)
	for _, l := range lines {
		at := "-"
		if !l.At.IsZero() {
			at = l.At.Local().Format("2006-01-02T15:04:05.000Z07:00")
		}
		if _, err := fmt.Fprintf(out, "%s [%s/%s] %s\n", at, l.Instance, l.Stream, shown(v.out, l.Text)); err != nil {
			return err
		}
	}
	return out.Flush()
}
