// Reads all of __consumer_offsets, as monitors of lag do, and prints for each group, topic and
// partition the committed offset and how far the partition's end is from it:
//
//	lag-reader ADDRESS
//	{"group": {"topic": {"0": {"offset": 10, "lag": 5, "version": 4}}}}
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const offsetsTopic = "__consumer_offsets"

type committed struct {
	Offset  int64 `json:"offset"`
	Lag     int64 `json:"lag"`
	Version int16 `json:"version"`
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

// groups maps group, topic and partition to what was committed last.
type groups map[string]map[string]map[string]committed

// take applies one record: a commit, or the removal of one. Other records are not of interest.
func (g groups) take(r *kgo.Record) {
	var key kmsg.OffsetCommitKey
	if r.Attrs.IsControl() || len(r.Key) < 2 || key.ReadFrom(r.Key) != nil || key.Version > 1 {
		return
	}
	partition := strconv.Itoa(int(key.Partition))
	if r.Value == nil {
		delete(g[key.Group][key.Topic], partition)
		return
	}
	var value kmsg.OffsetCommitValue
	check("a committed offset's record", value.ReadFrom(r.Value))
	if g[key.Group] == nil {
		g[key.Group] = map[string]map[string]committed{}
	}
	if g[key.Group][key.Topic] == nil {
		g[key.Group][key.Topic] = map[string]committed{}
	}
	g[key.Group][key.Topic][partition] = committed{Offset: value.Offset, Version: value.Version}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]), kgo.ConsumeTopics(offsetsTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	check("client", err)
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(ctx)
	check("list end offsets", err)
	// Internal topics are only listed by name.
	own, err := admin.ListEndOffsets(ctx, offsetsTopic)
	check("list end offsets of the groups", err)
	starts, err := admin.ListStartOffsets(ctx, offsetsTopic)
	check("list start offsets of the groups", err)

	left := map[int32]int64{}
	own.Each(func(o kadm.ListedOffset) {
		check("end offset", o.Err)
		start, _ := starts.Lookup(offsetsTopic, o.Partition)
		if o.Offset > start.Offset {
			left[o.Partition] = o.Offset
		}
	})
	found := groups{}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		check("poll", ctx.Err())
		for _, e := range fetches.Errors() {
			check("fetch", e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			found.take(r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	for _, topics := range found {
		for topic, partitions := range topics {
			for partition, c := range partitions {
				p, err := strconv.Atoi(partition)
				check("partition", err)
				end, ok := ends.Lookup(topic, int32(p))
				if !ok {
					continue
				}
				check("end offset", end.Err)
				c.Lag = end.Offset - c.Offset
				partitions[partition] = c
			}
		}
	}
	check("print", json.NewEncoder(os.Stdout).Encode(found))
}
