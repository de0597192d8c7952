package agenttest

import (
	"context"
	"math"
	"math/rand"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Liar answers the agents' API at random, every field of every answer.
type Liar struct {
	mu   sync.Mutex
	rand *rand.Rand
}

// NewLiar is one that always tells the same lies.
func NewLiar(seed int64) *Liar { return &Liar{rand: rand.New(rand.NewSource(seed))} }

// Fill makes each field of what v points to something else, at random.
func (l *Liar) Fill(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fill(reflect.ValueOf(v).Elem(), 4)
}

// Distort makes some fields of what v points to something else.
func (l *Liar) Distort(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.distort(reflect.ValueOf(v).Elem())
}

func (l *Liar) distort(v reflect.Value) {
	for i := range v.NumField() {
		switch field := v.Field(i); {
		case field.Kind() == reflect.Struct && field.Type() != timeType:
			l.distort(field)
		case l.rand.Intn(8) == 0:
			l.fill(field, 3)
		}
	}
}

var timeType = reflect.TypeFor[time.Time]()

// numbers are those at which arithmetic goes wrong.
var numbers = []int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt32, 65536}

func (l *Liar) fill(v reflect.Value, depth int) {
	number := numbers[l.rand.Intn(len(numbers))]
	switch {
	case v.Type() == timeType:
		v.Set(reflect.ValueOf(time.Unix(number%(1<<37), 0)))
		return
	case depth == 0:
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(l.rand.Intn(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(number)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(number))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(l.rand.NormFloat64() * 1e300)
	case reflect.String:
		texts := []string{"", "running", "failing", "../../../etc/passwd", "hello/0", "\x1b[2J", strings.Repeat("x", 1<<l.rand.Intn(12)), "\xff\x00", "-----BEGIN"}
		v.SetString(texts[l.rand.Intn(len(texts))])
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), l.rand.Intn(4), 4))
		for i := range v.Len() {
			l.fill(v.Index(i), depth-1)
		}
	case reflect.Pointer:
		if v.SetZero(); l.rand.Intn(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			l.fill(v.Elem(), depth-1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			l.fill(v.Field(i), depth)
		}
	}
}

func lie[T any](l *Liar) (T, error) {
	var v T
	l.Fill(&v)
	var e api.Error
	if l.Fill(&e); len(e.Message)%5 == 0 {
		return v, &e
	}
	return v, nil
}

// Inventory implements the API.
func (l *Liar) Inventory(context.Context) (api.Inventory, error) { return lie[api.Inventory](l) }

// Spec implements the API.
func (l *Liar) Spec(context.Context, api.SpecRequest) (api.Spec, error) { return lie[api.Spec](l) }

// Log implements the API.
func (l *Liar) Log(context.Context, api.LogRequest) (api.LogChunk, error) {
	return lie[api.LogChunk](l)
}

// Drift implements the API.
func (l *Liar) Drift(context.Context) (api.DriftReport, error) { return lie[api.DriftReport](l) }

// Census implements the API.
func (l *Liar) Census(context.Context) (api.CensusReport, error) { return lie[api.CensusReport](l) }

// Metrics implements the API.
func (l *Liar) Metrics(context.Context) (api.Metrics, error) { return lie[api.Metrics](l) }

// Submit implements the API.
func (l *Liar) Submit(context.Context, api.Submission) (api.Operation, error) {
	return lie[api.Operation](l)
}

// Wait implements the API.
func (l *Liar) Wait(context.Context, api.WaitRequest) (api.Progress, error) {
	return lie[api.Progress](l)
}

// Cancel implements the API.
func (l *Liar) Cancel(context.Context, api.CancelRequest) (api.Operation, error) {
	return lie[api.Operation](l)
}
